//go:build go1.19 && !go1.23

package main

import (
	"os"
	"strings"
	"syscall"
	_ "unsafe" // for linkname
)

// startingStackSize is the runtime's own: how much stack a new goroutine gets.
//
//go:linkname startingStackSize runtime.startingStackSize
var startingStackSize uint32

// setGoroutineStack lets goroutines that are made from now on begin with a
// larger stack. What a userspace tracer runs at a probe runs on the stack of
// the goroutine that hit it, and by itself that is 2 KiB.
func setGoroutineStack(bytes int) error {
	if bytes == 0 {
		return nil
	}
	// Otherwise the runtime changes the size to what goroutines used before,
	// and it reads this setting only when the program begins.
	const fixed = "adaptivestackstart=0"
	settings := os.Getenv("GODEBUG")
	if !strings.Contains(settings, fixed) {
		os.Setenv("GODEBUG", strings.TrimPrefix(settings+","+fixed, ","))
		return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
	}
	startingStackSize = uint32(bytes)
	return nil
}
