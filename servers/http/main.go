// Command go-server-http is uplab's HTTP server under test.
package main

import (
	"net"
	"net/http"

	"uplab.example/servers/fixed"
)

func main() {
	fixed.Main(fixed.Server{
		Name:   "go-server-http",
		Scheme: "http",
		Port:   447,
		Serve: func(server *http.Server, listener net.Listener) error {
			return server.Serve(listener)
		},
	})
}
