package activity

import (
	"context"
	"testing"
)

// heard notes what it gets, and passes it on.
type heard struct {
	Sink
	parents []uint64
	results int
}

func (h *heard) Start(e Event) {
	h.parents = append(h.parents, e.Parent)
	h.Sink.Start(e)
}

func (h *heard) Result(id uint64, what ResultType, f []Field) {
	h.results++
	h.Sink.Result(id, what, f)
}

func TestThrough(t *testing.T) {
	outer := &heard{Sink: swallow{}}
	ctx, top := Start(With(context.Background(), outer), Info, Unknown, "top")
	var inner *heard
	ctx = Through(ctx, func(next Sink) Sink {
		inner = &heard{Sink: next}
		return inner
	})
	_, below := Start(ctx, Info, Unknown, "below")
	below.Result(Progress, Int(1))
	top.Result(Progress, Int(1)) // is not told under ctx
	if len(inner.parents) != 1 || inner.parents[0] != top.id || inner.results != 1 {
		t.Errorf("the inner one heard %+v", inner)
	}
	if len(outer.parents) != 2 || outer.results != 2 {
		t.Errorf("the outer one heard %+v", outer)
	}
	// Without anybody who listens.
	_, a := Start(Through(context.Background(), func(next Sink) Sink { return &heard{Sink: next} }), Info, Unknown, "")
	a.Stop()
}
