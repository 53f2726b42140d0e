// Command go-server-http is uplab's HTTP server under test: it answers every
// request with a fixed body, so that what a probe costs is not hidden behind
// work of its own.
package main

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

	minStackBytes = 2 << 10
	maxStackBytes = 1 << 20
)

type options struct {
	address    string
	port       int
	bodyBytes  int
	stackBytes int
}

func main() {
	opts, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fail(exitUsage, err)
	}
	if err := setGoroutineStack(opts.stackBytes); err != nil {
		fail(exitUsage, err)
	}
	// Installed before the socket listens: whoever reads the ready line may
	// send SIGTERM at once.
	exitOnSignal()
	// Not in the main goroutine, whose stack was there before the size was set.
	ended := make(chan error)
	go func() { ended <- serve(opts) }()
	if err := <-ended; err != nil {
		fail(exitFailure, err)
	}
}

func parseOptions(args []string) (options, error) {
	var opts options
	flags := flag.NewFlagSet("go-server-http", flag.ContinueOnError)
	flags.StringVar(&opts.address, "address", "127.0.0.1", "IP `address` to listen on")
	flags.IntVar(&opts.port, "port", 447, "TCP `port` to listen on; 0 takes a free one")
	flags.IntVar(&opts.bodyBytes, "body-bytes", len(bodyPattern), "size of the response body in `bytes`")
	flags.IntVar(&opts.stackBytes, "stack-bytes", 0, "stack that a goroutine begins with, in `bytes`, a power of two; 0 is Go's own")
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
	}
	return opts, nil
}

func isStack(bytes int) bool {
	powerOfTwo := bytes&(bytes-1) == 0
	return bytes == 0 || (powerOfTwo && bytes >= minStackBytes && bytes <= maxStackBytes)
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

func serve(opts options) error {
	listener, err := net.Listen("tcp", net.JoinHostPort(opts.address, strconv.Itoa(opts.port)))
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: fixedBody(opts.bodyBytes),
		// What clients do wrong (resets, garbage) would
		// otherwise be written line by line while the load is measured.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	fmt.Printf("ready http://%s/ body_bytes=%d pid=%d\n", listener.Addr(), opts.bodyBytes, os.Getpid())
	return server.Serve(listener)
}

// fixedBody answers with bodyPattern repeated and cut to bodyBytes.
func fixedBody(bodyBytes int) http.Handler {
	body := []byte(strings.Repeat(bodyPattern, bodyBytes/len(bodyPattern)+1)[:bodyBytes])
	length := strconv.Itoa(bodyBytes)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		header := w.Header()
		header.Set("Content-Type", "text/plain")
		header.Set("Content-Length", length)
		// A client that went away is not the server's failure.
		_, _ = w.Write(body)
	})
}

func fail(code int, err error) {
	fmt.Fprintf(os.Stderr, "go-server-http: %s\n", oneLine(err))
	os.Exit(code)
}

func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}
