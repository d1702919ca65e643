package execute

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/strata-nix/strata/store"
)

// readSize is what is read of the output of a builder at once, in bytes; a
// terminal gives no more.
const readSize = 4096

// watch reads what a builder says, and sees to its limits, of which 0 is none.
type watch struct {
	drv        string // for messages
	write      func([]byte)
	stop       context.CancelCauseFunc // ends the builder, with a failure
	maxSize    uint64
	maxSilence time.Duration
	maxTime    time.Duration

	size uint64

	mu    sync.Mutex
	heard time.Time // when something was said last
}

// read takes in what the builder says, until nobody is left who could say
// something. What is said after the limit is thrown away.
func (w *watch) read(from io.Reader) {
	buf := make([]byte, readSize)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			w.take(buf[:n])
		}
		if err != nil {
			return // a terminal has EIO where other files have an end
		}
	}
}

func (w *watch) take(p []byte) {
	w.mu.Lock()
	w.heard = time.Now()
	w.mu.Unlock()
	room := w.maxSize - w.size
	w.size += uint64(len(p))
	if w.maxSize != 0 && w.size > w.maxSize {
		w.write(p[:room])
		w.size = w.maxSize
		w.stop(failf(store.LogLimitExceeded, "building derivation '%s' killed after writing more than %d bytes of log output", w.drv, w.maxSize))
		return
	}
	w.write(p)
}

// limits stops a builder that takes too long, or is silent for too long.
func (w *watch) limits(done <-chan struct{}) {
	start := time.Now()
	w.mu.Lock()
	w.heard = start
	w.mu.Unlock()
	for {
		left, limit, any := w.left(start)
		if !any {
			return
		}
		if left <= 0 {
			w.stop(failf(store.TimedOut, "building derivation '%s' timed out after %d seconds", w.drv, int64(limit/time.Second)))
			return
		}
		timer := time.NewTimer(left)
		select {
		case <-done:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// left tells how long the builder has until it reaches which of its limits.
func (w *watch) left(start time.Time) (left, limit time.Duration, any bool) {
	if w.maxTime != 0 {
		left, limit, any = w.maxTime-time.Since(start), w.maxTime, true
	}
	if w.maxSilence != 0 {
		w.mu.Lock()
		silent := time.Since(w.heard)
		w.mu.Unlock()
		if s := w.maxSilence - silent; !any || s <= left {
			left, limit, any = s, w.maxSilence, true
		}
	}
	return left, limit, any
}
