package builder

import (
	"context"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
)

// outcome is how a goal ended.
type outcome uint8

const (
	open         outcome = iota
	succeeded            //
	failed               // something went wrong
	unobtainable         // nobody has it, so that others may try another way
)

// step is what the loop of a request does next. Its error ends the request.
type step func(ctx context.Context) error

// goal is a part of what all goals are.
type goal struct {
	state  outcome
	result *store.BuildResult // when it is not open any more
	waits  []*wait
	// quiet goals leave it to who waits for them to tell that they failed.
	quiet bool
	// top goals are what was asked for.
	top bool
}

// wait is somebody who waits for several goals.
type wait struct {
	left         int
	failed       int // of those that are over, unobtainable ones included
	unobtainable int
	woken        bool
	then         func(ctx context.Context, w *wait) error
}

// await does then when all goals are over, or, unless a request keeps going, one
// has failed.
func (r *request) await(goals []*goal, then func(ctx context.Context, w *wait) error) {
	w := &wait{left: len(goals), then: then}
	for _, g := range goals {
		if g.state == open {
			g.waits = append(g.waits, w)
		} else {
			r.tell(w, g)
		}
	}
	if len(goals) == 0 {
		r.wake(w)
	}
}

// tell tells who waits that one of its goals is over.
func (r *request) tell(w *wait, g *goal) {
	w.left--
	if g.state != succeeded {
		w.failed++
	}
	if g.state == unobtainable {
		w.unobtainable++
	}
	if w.left == 0 || g.state == failed && !r.KeepGoing {
		r.wake(w)
	}
}

func (r *request) wake(w *wait) {
	if !w.woken {
		w.woken = true
		r.steps = append(r.steps, func(ctx context.Context) error { return w.then(ctx, w) })
	}
}

// end is the end of a goal.
func (r *request) end(ctx context.Context, g *goal, how outcome, result *store.BuildResult) {
	g.state, g.result = how, result
	waits := g.waits
	g.waits = nil
	told := false
	for _, w := range waits {
		if w.woken {
			continue
		}
		if how == failed && !g.quiet && !told {
			activity.Errorf(ctx, "%s", result.Message)
			told = true
		}
		r.tell(w, g)
	}
	if g.top {
		r.left--
		r.givenUp = r.givenUp || how == failed && !r.KeepGoing
	}
}

func (r *request) succeed(ctx context.Context, g *goal, result *store.BuildResult) {
	r.end(ctx, g, succeeded, result)
}

// fail ends a goal with a failure of its own.
func (r *request) fail(ctx context.Context, g *goal, status store.BuildStatus, message string) {
	r.failAs(ctx, g, &store.BuildResult{Status: status, Message: message})
}

// failAs ends a goal with a failure that may be another's.
func (r *request) failAs(ctx context.Context, g *goal, result *store.BuildResult) {
	r.failures = append(r.failures, result.Status)
	r.end(ctx, g, failed, result)
}
