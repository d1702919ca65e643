package fusefs

import (
	"fmt"
	"syscall"
	"testing"
)

func TestSignalsThatEndWaiting(t *testing.T) {
	const format = "Name:\tx\nSigPnd:\t%016x\nShdPnd:\t%016x\nSigBlk:\t%016x\nSigIgn:\t0\n"
	bit := func(sig syscall.Signal) uint64 { return 1 << (sig - 1) }
	for _, c := range []struct {
		own, shared, blocked uint64
		want                 bool
	}{
		{},
		{own: bit(syscall.SIGURG)},
		{shared: bit(syscall.SIGCHLD) | bit(syscall.SIGWINCH) | 1<<40},
		{own: bit(syscall.SIGKILL), want: true},
		{shared: bit(syscall.SIGALRM), want: true},
		{shared: bit(syscall.SIGINT) | bit(syscall.SIGCHLD), want: true},
		{shared: bit(syscall.SIGINT), blocked: bit(syscall.SIGINT)},
	} {
		if got := endsWaiting(fmt.Sprintf(format, c.own, c.shared, c.blocked)); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
	if !endsWaiting("Name:\tx\n") || !endsWaiting(fmt.Sprintf("SigPnd:\tz\n"+format, 0, 0, 0)) {
		t.Error("what cannot be seen goes on")
	}
}
