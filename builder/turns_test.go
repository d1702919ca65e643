package builder

import (
	"slices"
	"testing"
	"testing/synctest"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q turns
		var order []string
		a, b, c := q.next(), q.next(), q.next()
		go func() { b.wait(t.Context()); order = append(order, "b begins"); b.pass() }()
		synctest.Wait()
		go func() { a.wait(t.Context()); order = append(order, "a begins"); a.pass() }()
		synctest.Wait()
		go func() { c.yield(t.Context()); order = append(order, "c ends") }()
		synctest.Wait()
		q.end(b)
		go func() { a.yield(t.Context()); order = append(order, "a ends") }()
		synctest.Wait()
		q.end(a)
		synctest.Wait()
		if want := []string{"a begins", "b begins", "a ends", "c ends"}; !slices.Equal(order, want) {
			t.Errorf("%q", order)
		}
		q.end(c)
		// Nobody waits for ever.
		d, e := q.next(), q.next()
		e.wait(t.Context())
		e.yield(t.Context())
		q.end(e)
		q.end(d)
		if len(q.open) > 0 {
			t.Errorf("%d turns stay", len(q.open))
		}
	})
}
