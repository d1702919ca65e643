package builder

import (
	"context"
	"sync"
)

// slots are the builds that may run at once for a request.
type slots struct {
	free chan struct{}
	// nudge hears of each slot that is given back.
	nudge chan struct{}
}

func newSlots(n uint) slots {
	// More than so many cannot be of use to anybody.
	const most = 1 << 12
	s := slots{free: make(chan struct{}, min(n, most)), nudge: make(chan struct{}, 1)}
	for range cap(s.free) {
		s.free <- struct{}{}
	}
	return s
}

// left tells whether there is a slot that nobody has.
func (s slots) left() bool { return len(s.free) > 0 }

// ownSlot is one for what takes none from others.
func ownSlot() *slot { return &slot{pool: newSlots(1)} }

// slot is one that somebody has, or not just now.
type slot struct {
	pool slots
	mu   sync.Mutex
	held bool
}

// try takes a slot if there is one, or it is held already.
func (s *slot) try() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held {
		return true
	}
	select {
	case <-s.pool.free:
		s.held = true
	default:
	}
	return s.held
}

// take waits for a slot, unless it is held already.
func (s *slot) take(ctx context.Context) error {
	if s.try() {
		return nil
	}
	select {
	case <-s.pool.free:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.held = true
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// release gives the slot back if it is held.
func (s *slot) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.held {
		return
	}
	s.held = false
	s.pool.free <- struct{}{}
	select {
	case s.pool.nudge <- struct{}{}:
	default:
	}
}
