// Command go-server is uplab's HTTPS server under test.
package main

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"

	"uplab.example/servers/fixed"
)

var certFile, keyFile string

func main() {
	fixed.Main(fixed.Server{
		Name:    "go-server",
		Scheme:  "https",
		Port:    446,
		Flags:   declare,
		Check:   check,
		Prepare: prepare,
		Serve: func(server *http.Server, listener net.Listener) error {
			return server.ServeTLS(listener, "", "")
		},
	})
}

func declare(flags *flag.FlagSet) {
	flags.StringVar(&certFile, "cert", "", "PEM `file` of the certificate")
	flags.StringVar(&keyFile, "key", "", "PEM `file` of the private key")
}

func check() error {
	if certFile == "" || keyFile == "" {
		return errors.New("-cert and -key are needed")
	}
	return nil
}

func prepare(server *http.Server) error {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", certFile, keyFile, err)
	}
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	// A non-nil empty map keeps HTTP/2 off: the experiment is HTTP/1.1.
	server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	return nil
}
