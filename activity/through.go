package activity

import "context"

// Through puts a sink before the one of ctx, below the same activity: it hears all
// that is told under the context that comes back, and passes on to next what it likes. A
// context without a sink has one that swallows.
func Through(ctx context.Context, before func(next Sink) Sink) context.Context {
	p := at(ctx)
	if p.sink == nil {
		p.sink = swallow{}
	}
	p.sink = before(p.sink)
	return context.WithValue(ctx, sinkKey{}, p)
}

// swallow is a sink that nobody listens to.
type swallow struct{}

func (swallow) Log(Level, string)                  {}
func (swallow) Start(Event)                        {}
func (swallow) Stop(uint64)                        {}
func (swallow) Result(uint64, ResultType, []Field) {}
