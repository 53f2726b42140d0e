module uplab.example/go-server

go 1.19
