package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrPaused: somebody else has paused the server.
var ErrPaused = errors.New("the daemon is paused already")

// BusyError says that operations did not end in time.
type BusyError struct{ Operations int }

func (e *BusyError) Error() string {
	if e.Operations == 1 {
		return "an operation of a client is under way"
	}
	return fmt.Sprintf("%d operations of clients are under way", e.Operations)
}

// Pause lets the operations that are under way end, and makes those that come later
// wait, on connections that are open and on new ones, until resume is called. If some
// have not ended by the end of ctx, everything goes on as before, and the error is a
// [*BusyError].
func (s *Server) Pause(ctx context.Context) (resume func(), err error) { return s.gate.close(ctx) }

// gate is where operations pass.
type gate struct {
	mu     sync.Mutex
	inside int
	shut   chan struct{} // closed when it opens again; nil: it is open
	empty  chan struct{} // closed when nobody is inside any more; nil: nobody waits for that
}

// enter waits while the gate is shut, also for a client that has gone: whoever shut
// it relies on nobody being inside, and is soon done.
func (g *gate) enter() {
	g.mu.Lock()
	for g.shut != nil {
		shut := g.shut
		g.mu.Unlock()
		<-shut
		g.mu.Lock()
	}
	g.inside++
	g.mu.Unlock()
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside--; g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// close shuts the gate and waits until nobody is inside.
func (g *gate) close(ctx context.Context) (open func(), err error) {
	g.mu.Lock()
	if g.shut != nil {
		g.mu.Unlock()
		return nil, ErrPaused
	}
	g.shut = make(chan struct{})
	open = sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		close(g.shut)
		g.shut, g.empty = nil, nil
	})
	empty := make(chan struct{})
	if g.inside == 0 {
		close(empty)
	} else {
		g.empty = empty
	}
	g.mu.Unlock()
	select {
	case <-empty:
		return open, nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	n := g.inside
	g.mu.Unlock()
	if n == 0 {
		return open, nil
	}
	open()
	return nil, &BusyError{Operations: n}
}

// passing makes what a session calls when it begins and ends to be busy.
func (g *gate) passing(busy func(bool)) func(bool) {
	inside := false
	return func(b bool) {
		switch {
		case b && !inside:
			g.enter()
		case !b && inside:
			g.leave()
		}
		inside = b
		busy(b)
	}
}
