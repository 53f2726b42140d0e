//go:build !go1.19 || go1.23

package main

import (
	"fmt"
	"runtime"
)

// setGoroutineStack refuses: this Go's runtime does not let a program choose.
func setGoroutineStack(bytes int) error {
	if bytes == 0 {
		return nil
	}
	return fmt.Errorf("-stack-bytes takes a server built by Go 1.19 to 1.22, this is %s", runtime.Version())
}
