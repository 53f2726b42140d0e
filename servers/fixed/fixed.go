// Package fixed is what uplab's servers under test have in common: each
// answers every request with a fixed body, so that what a probe costs is not
// hidden behind work of its own.
package fixed

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

const (
	exitFailure = 1
	exitUsage   = 2

	bodyPattern  = "Hello,World!"
	maxBodyBytes = 64 << 20
)

// Server is how one command differs from another.
type Server struct {
	Name   string
	Scheme string
	Port   int
	// Flags declares flags of its own; may be nil.
	Flags func(*flag.FlagSet)
	// Check refuses wrong values of its own flags; may be nil.
	Check func() error
	// Prepare does what must be done before the socket listens; may be nil.
	Prepare func(*http.Server) error
	Serve   func(*http.Server, net.Listener) error
}

type options struct {
	address    string
	port       int
	bodyBytes  int
	stackBytes int
}

// Main parses the command line, serves until a signal comes, and exits.
func Main(server Server) {
	opts, err := server.parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		server.fail(exitUsage, err)
	}
	if err := setGoroutineStack(opts.stackBytes); err != nil {
		server.fail(exitUsage, err)
	}
	// Installed before the socket listens: whoever reads the ready line may
	// send SIGTERM at once.
	exitOnSignal()
	// Not in the main goroutine, whose stack was there before the size was set.
	ended := make(chan error)
	go func() { ended <- server.serve(opts) }()
	if err := <-ended; err != nil {
		server.fail(exitFailure, err)
	}
}

func (server Server) parseOptions(args []string) (options, error) {
	var opts options
	flags := flag.NewFlagSet(server.Name, flag.ContinueOnError)
	flags.StringVar(&opts.address, "address", "127.0.0.1", "IP `address` to listen on")
	flags.IntVar(&opts.port, "port", server.Port, "TCP `port` to listen on; 0 takes a free one")
	flags.IntVar(&opts.bodyBytes, "body-bytes", len(bodyPattern), "size of the response body in `bytes`")
	flags.IntVar(&opts.stackBytes, "stack-bytes", 0, "stack that a goroutine begins with, in `bytes`, a power of two; 0 is Go's own")
	if server.Flags != nil {
		server.Flags(flags)
	}
	// The flag package prints an error together with the whole usage text;
	// an error is one line here, and only -help prints the usage.
	flags.SetOutput(io.Discard)
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(os.Stdout)
			flags.Usage()
		}
		return opts, err
	}
	switch {
	case flags.NArg() > 0:
		return opts, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case net.ParseIP(opts.address) == nil:
		return opts, fmt.Errorf("-address %q is not an IP address", opts.address)
	case opts.port < 0 || opts.port > 65535:
		return opts, fmt.Errorf("-port %d is not in 0..65535", opts.port)
	case opts.bodyBytes < 0 || opts.bodyBytes > maxBodyBytes:
		return opts, fmt.Errorf("-body-bytes %d is not in 0..%d", opts.bodyBytes, maxBodyBytes)
	case !isStack(opts.stackBytes):
		return opts, fmt.Errorf("-stack-bytes %d is neither 0 nor a power of two in %d..%d", opts.stackBytes, minStackBytes, maxStackBytes)
	case server.Check != nil:
		return opts, server.Check()
	}
	return opts, nil
}

// exitOnSignal ends the process at once: a measurement never waits for
// connections to drain.
func exitOnSignal() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		os.Exit(0)
	}()
}

func (server Server) serve(opts options) error {
	answering := &http.Server{
		Handler: body(opts.bodyBytes),
		// What clients do wrong (handshakes with plain HTTP, resets) would
		// otherwise be written line by line while the load is measured.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	if server.Prepare != nil {
		if err := server.Prepare(answering); err != nil {
			return err
		}
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(opts.address, strconv.Itoa(opts.port)))
	if err != nil {
		return err
	}
	fmt.Printf("ready %s://%s/ body_bytes=%d pid=%d\n", server.Scheme, listener.Addr(), opts.bodyBytes, os.Getpid())
	return server.Serve(answering, listener)
}

// body answers with bodyPattern repeated and cut to bodyBytes.
func body(bodyBytes int) http.Handler {
	content := []byte(strings.Repeat(bodyPattern, bodyBytes/len(bodyPattern)+1)[:bodyBytes])
	length := strconv.Itoa(bodyBytes)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		header := w.Header()
		header.Set("Content-Type", "text/plain")
		header.Set("Content-Length", length)
		// A client that went away is not the server's failure.
		_, _ = w.Write(content)
	})
}

func (server Server) fail(code int, err error) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", server.Name, strings.Join(strings.Fields(err.Error()), " "))
	os.Exit(code)
}
