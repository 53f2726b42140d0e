package fixed

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"unsafe"
)

const (
	minStackBytes = 2 << 10
	maxStackBytes = 1 << 20

	// The runtime changes the size to what goroutines used before, and halves
	// the stack of one that uses little of it, unless these are set. It reads
	// them only when the program begins.
	fixedStacks = "adaptivestackstart=0,gcshrinkstackoff=1"

	// More goroutines than a load has at once: two for each connection.
	places = 8192
)

// stackAnchor is a variable whose place in memory and in the symbol table are
// both known.
var stackAnchor uint32

const anchorName = "uplab.example/servers/fixed.stackAnchor"

func isStack(bytes int) bool {
	powerOfTwo := bytes&(bytes-1) == 0
	return bytes == 0 || (powerOfTwo && bytes >= minStackBytes && bytes <= maxStackBytes)
}

// setGoroutineStack lets goroutines that are made from now on begin with a
// larger stack. What a userspace tracer runs at a probe runs on the stack of
// the goroutine that hit it, and by itself that is 2 KiB.
func setGoroutineStack(bytes int) error {
	if bytes == 0 {
		return nil
	}
	settings := os.Getenv("GODEBUG")
	if !strings.Contains(settings, fixedStacks) {
		os.Setenv("GODEBUG", strings.TrimPrefix(settings+","+fixedStacks, ","))
		return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
	}
	size, err := startingStackSize()
	if err != nil {
		return err
	}
	*size = uint32(bytes)
	makePlaces()
	return nil
}

// startingStackSize finds the runtime's variable of this name: how much stack a
// goroutine gets that takes the place of one that has ended. Since Go 1.23 no
// package may link to it, so the program's own symbol table says where it lies.
func startingStackSize() (*uint32, error) {
	program, err := elf.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer program.Close()
	symbols, err := program.Symbols()
	if err != nil {
		return nil, fmt.Errorf("-stack-bytes takes a program with its symbol table: %w", err)
	}
	var wanted, anchor uint64
	for _, symbol := range symbols {
		switch symbol.Name {
		case "runtime.startingStackSize":
			wanted = symbol.Value
		case anchorName:
			anchor = symbol.Value
		}
	}
	if wanted == 0 || anchor == 0 {
		return nil, errors.New("-stack-bytes: this Go's runtime has no startingStackSize")
	}
	return (*uint32)(unsafe.Add(unsafe.Pointer(&stackAnchor), int(wanted-anchor))), nil
}

// makePlaces lets many goroutines end: one that takes no other's place begins
// with 2 KiB, whatever startingStackSize says. The garbage collector's own
// begin when it first runs, so it must not run before.
func makePlaces() {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var running sync.WaitGroup
	running.Add(places)
	end := make(chan struct{})
	for i := 0; i < places; i++ {
		go func() {
			<-end
			running.Done()
		}()
	}
	close(end)
	running.Wait()
}
