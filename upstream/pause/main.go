// Command pause holds a pod's namespaces open: it waits until it is told to
// end, and reaps the orphans that a shared process namespace leaves to it.
//
// containerd's sandbox image has to exit at `-v`, as upstream's own does.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "development"

func main() {
	for _, argument := range os.Args[1:] {
		if argument == "-v" {
			fmt.Println("pause " + version)
			return
		}
	}

	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			fmt.Fprintln(os.Stderr, "shutting down, got signal:", received)
			return
		}
		reap()
	}
}

// reap collects every child that has ended. One signal may stand for several
// children, so it goes on until none is left.
func reap() {
	for {
		child, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || child <= 0 {
			return
		}
	}
}
