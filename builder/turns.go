package builder

import (
	"context"
	"sync"
	"time"
)

// turnPatience is how long a build waits for the one before it to begin.
const turnPatience = 20 * time.Millisecond

// turns let the builders of a request begin in the order in which they became
// ready, although they get ready side by side: when several are to fail at once, it
// is the same one each time that is told of.
type turns struct{ last *turn }

// turn is a place in the order.
type turn struct {
	before *turn // nil once it has begun
	once   sync.Once
	begun  chan struct{}
}

func (q *turns) next() *turn {
	t := &turn{before: q.last, begun: make(chan struct{})}
	q.last = t
	return t
}

// wait waits for the turn, a little.
func (t *turn) wait(ctx context.Context) {
	if t.before == nil {
		return
	}
	timer := time.NewTimer(turnPatience)
	defer timer.Stop()
	select {
	case <-t.before.begun:
	case <-timer.C:
	case <-ctx.Done():
	}
	t.before = nil
}

// pass gives the turn to the next one. It may be called again, by anybody.
func (t *turn) pass() { t.once.Do(func() { close(t.begun) }) }
