// Package crashpoint marks the moments between two durable steps, at which a
// process may be killed and the next one must find its way. A mark costs one load
// of an atomic pointer; only tests give it a meaning.
//
// A test runs the same work in a child again and again, killed at its first,
// second, third … mark, until it comes to the end, and looks each time at what
// is left. So no list of moments has to be kept by hand: whoever adds a durable
// step adds a mark beside it.
package crashpoint

import (
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

var hook atomic.Pointer[func(name string)]

// Reached says that a moment has come. name tells what has just been done, such as
// "gc: rows deleted"; it is for whoever reads a failed test.
func Reached(name string) {
	if f := hook.Load(); f != nil {
		(*f)(name)
	}
}

// Watch calls f at each mark with its name, until stop is called. For tests that look at what
// others would see at that moment; one at a time can.
func Watch(f func(name string)) (stop func()) {
	hook.Store(&f)
	return func() { hook.Store(nil) }
}

// KillAt makes the process kill itself, as kill -9 does, at the mark that comes
// after n others. before, if there is one, is called with the name first. For
// children of tests.
func KillAt(n int, before func(name string)) {
	var reached atomic.Int64
	f := func(name string) {
		if reached.Add(1) != int64(n)+1 {
			return
		}
		if before != nil {
			before(name)
		}
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
	hook.Store(&f)
}
