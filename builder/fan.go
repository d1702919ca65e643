package builder

import (
	"context"
	"slices"
	"sync"

	"github.com/strata-nix/strata/activity"
)

// fan is a sink that passes on what a build tells to all who wait for it. The
// first of them may make the build wait, as a slow terminal does; those who
// joined miss something instead.
type fan struct {
	mu        sync.Mutex
	listeners []*listener
	started   []activity.Event // and not stopped, in their order
	begun     func()           // is called when a builder starts; may be nil
}

// onBuild lets begun hear of the start of the builder.
func (f *fan) onBuild(begun func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begun = begun
}

// listener is one who waits.
type listener struct {
	f      *fan
	sink   activity.Sink
	parent uint64
	queue  *backlog
}

// add lets the sink of ctx listen, from what is under way on.
func (f *fan) add(ctx context.Context) *listener {
	sink, parent := activity.SinkOf(ctx)
	if sink == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l := &listener{f: f, sink: sink, parent: parent, queue: newBacklog(len(f.listeners) == 0)}
	f.listeners = append(f.listeners, l)
	for _, e := range f.started {
		l.start(e)
	}
	return l
}

// close ends listening, when all has been told. What is still under way ends for
// this listener.
func (l *listener) close() {
	if l == nil {
		return
	}
	l.f.mu.Lock()
	l.f.listeners = slices.DeleteFunc(slices.Clone(l.f.listeners), func(o *listener) bool { return o == l })
	open := slices.Clone(l.f.started)
	l.f.mu.Unlock()
	for _, e := range slices.Backward(open) {
		l.queue.push(true, func() { l.sink.Stop(e.ID) })
	}
	l.queue.close()
}

func (l *listener) start(e activity.Event) {
	if e.Parent == 0 {
		e.Parent = l.parent
	}
	l.queue.push(true, func() { l.sink.Start(e) })
}

// all are those who listen now. Nobody is told anything under the lock, as that may
// take long.
func (f *fan) all() []*listener {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.listeners)
}

// Log implements activity.Sink.
func (f *fan) Log(level activity.Level, text string) {
	for _, l := range f.all() {
		l.queue.push(false, func() { l.sink.Log(level, text) })
	}
}

// Start implements activity.Sink.
func (f *fan) Start(e activity.Event) {
	f.mu.Lock()
	f.started = append(f.started, e)
	begun, listeners := f.begun, slices.Clone(f.listeners)
	f.mu.Unlock()
	if e.Type == activity.Build && begun != nil {
		begun()
	}
	for _, l := range listeners {
		l.start(e)
	}
}

// Stop implements activity.Sink.
func (f *fan) Stop(id uint64) {
	f.mu.Lock()
	f.started = slices.DeleteFunc(f.started, func(e activity.Event) bool { return e.ID == id })
	listeners := slices.Clone(f.listeners)
	f.mu.Unlock()
	for _, l := range listeners {
		l.queue.push(true, func() { l.sink.Stop(id) })
	}
}

// Result implements activity.Sink.
func (f *fan) Result(id uint64, what activity.ResultType, fields []activity.Field) {
	for _, l := range f.all() {
		l.queue.push(false, func() { l.sink.Result(id, what, fields) })
	}
}
