package builder

import (
	"context"
	"sync"
	"time"
)

// How long a build waits for the one before it to begin, and how long one that
// has failed waits for those before it to end.
const (
	turnPatience = 200 * time.Millisecond
	turnCourtesy = 200 * time.Millisecond
)

// turns let the builders of a request begin in the order in which they became
// ready, although they get ready side by side; and of several that fail at once the
// first is the one that is told of. Stock Nix starts and looks at one after the other.
// It belongs to the goroutine of the request.
type turns struct{ open []*turn }

// turn is a place in the order. Its methods are for any goroutine.
type turn struct {
	before <-chan struct{} // the one before it has begun; nil if there is none
	begun  chan struct{}
	oldest chan struct{} // all before it have ended
	pass   func()        // lets the next one begin; may be called again
	ended  bool          // of turns
}

func (q *turns) next() *turn {
	t := &turn{begun: make(chan struct{}), oldest: make(chan struct{})}
	t.pass = sync.OnceFunc(func() { close(t.begun) })
	if len(q.open) == 0 {
		close(t.oldest)
	} else {
		t.before = q.open[len(q.open)-1].begun
	}
	q.open = append(q.open, t)
	return t
}

// end is for a turn that is over.
func (q *turns) end(t *turn) {
	t.ended = true
	n := 0
	for n < len(q.open) && q.open[n].ended {
		n++
	}
	if n == 0 {
		return
	}
	clear(q.open[:n])
	if q.open = q.open[n:]; len(q.open) > 0 {
		close(q.open[0].oldest)
	}
}

// wait waits for the turn, a little.
func (t *turn) wait(ctx context.Context) {
	if t.before != nil {
		waitFor(ctx, t.before, turnPatience)
	}
}

// yield waits for those that began earlier to end, a little.
func (t *turn) yield(ctx context.Context) { waitFor(ctx, t.oldest, turnCourtesy) }

func waitFor(ctx context.Context, c <-chan struct{}, most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-c:
	case <-timer.C:
	case <-ctx.Done():
	}
}
