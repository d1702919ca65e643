package lazy

import (
	"context"
	"fmt"
	"time"
)

const (
	// pathsPerPatience is about how many paths an origin can be asked about in the time of one.
	pathsPerPatience = 256
	// largeAnswer is as how many paths the tree or the index of an object counts, which may be that of 10^5 files.
	largeAnswer = pathsPerPatience
	// answerGrace is how long the answer to a question is waited for that has been given up: nearly all origins give up at
	// once, too.
	answerGrace = 100 * time.Millisecond
)

// question asks an origin about n paths. It gives up after the patience for so many, or when ctx ends, also if the origin
// heeds no context, as a directory on a server that is gone. An error tells which origin does not answer.
func question[T any](ctx context.Context, s *Store, from *origin, n int, ask func(context.Context) (T, error)) (T, error) {
	limit := s.o.Patience * time.Duration(1+n/pathsPerPatience)
	asking, cancel := context.WithTimeout(ctx, limit)
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		defer cancel()
		v, err := ask(asking)
		answers <- answer{v, err}
	}()
	select {
	case a := <-answers:
		return a.value, unanswered(ctx, asking, from, limit, a.err)
	case <-asking.Done():
	}
	select {
	case a := <-answers:
		return a.value, unanswered(ctx, asking, from, limit, a.err)
	case <-time.After(answerGrace):
		var none T
		return none, unanswered(ctx, asking, from, limit, context.Cause(asking))
	}
}

// unanswered says of an error that it is for want of an answer, if it is.
func unanswered(ctx, asking context.Context, from *origin, limit time.Duration, err error) error {
	if err == nil || asking.Err() != context.DeadlineExceeded || ctx.Err() != nil { //nolint:errorlint // never wrapped
		return err
	}
	return fmt.Errorf("asking '%s': %w (%s)", from.Store.URI(), errStalled, limit)
}
