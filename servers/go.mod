module uplab.example/servers

go 1.19
