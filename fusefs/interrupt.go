package fusefs

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// call is a request under way.
type call struct {
	ctx    context.Context //nolint:containedctx // of this one request
	cancel context.CancelCauseFunc
	pid    uint32 // of the thread that waits for the answer, 0 if that is not known
}

// signalPoll is how often it is looked whether another signal has come. The kernel tells of
// the first one alone.
const signalPoll = 50 * time.Millisecond

// interrupt ends a request because of a signal that whoever waits for it got; unix.EAGAIN asks the
// kernel to try again if the request is yet to be begun, or over.
//
// The kernel tells of any signal, and cannot let go of the waiting process, not even of one that is
// killed, before there is an answer. But no program expects that a file cannot be opened because a child
// of it has ended, its window was resized, or the runtime of its language wants a thread to
// stop for a moment: on a disk none of that ever shows. So those signals end nothing.
func (s *server) interrupt(unique uint64) unix.Errno {
	s.mu.Lock()
	c := s.calls[unique]
	s.mu.Unlock()
	if c == nil {
		return unix.EAGAIN
	}
	if meant(c.pid) {
		c.cancel(context.Canceled)
	} else {
		go c.awaitSignal()
	}
	return 0
}

// awaitSignal ends a request when a signal comes that is meant to, and returns with the request.
func (c *call) awaitSignal() {
	tick := time.NewTicker(signalPoll)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
			if meant(c.pid) {
				c.cancel(context.Canceled)
				return
			}
		}
	}
}

// passing are signals that do not mean that somebody has enough of waiting, as bits like those in
// /proc/PID/status. Real-time signals, which libraries use among their threads, are such too.
var passing = func() uint64 {
	bits := ^uint64(1<<31 - 1) // from signal 32 on
	for _, sig := range []unix.Signal{
		unix.SIGCHLD, unix.SIGCONT, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU,
		unix.SIGURG, unix.SIGVTALRM, unix.SIGPROF, unix.SIGWINCH, unix.SIGIO,
	} {
		bits |= 1 << (sig - 1)
	}
	return bits
}()

// meant tells whether a thread has got a signal that ends its waiting. If that cannot be seen it is
// taken to have got one.
func meant(pid uint32) bool {
	if pid == 0 {
		return true
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return true
	}
	return endsWaiting(string(status))
}

// endsWaiting is meant of what /proc says of the thread. Source: proc_pid_status(5).
func endsWaiting(status string) bool {
	var own, shared, blocked uint64
	found := 0
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		into := map[string]*uint64{"SigPnd": &own, "ShdPnd": &shared, "SigBlk": &blocked}[name]
		if into == nil {
			continue
		}
		bits, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return true
		}
		*into = bits
		found++
	}
	return found != 3 || (own|shared)&^blocked&^passing != 0
}
