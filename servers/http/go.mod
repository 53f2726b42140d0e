module uplab.example/go-server-http

go 1.19
