package builder

import (
	"context"
	"slices"
	"sync"

	"github.com/strata-nix/strata/activity"
)

// fanBacklog is how many messages may wait for somebody who listens along.
const fanBacklog = 10_000

// fan is a sink that passes on what a build tells to all who wait for it. The
// first of them may make the build wait, as a slow terminal does; those who
// joined miss something instead.
type fan struct {
	mu        sync.Mutex
	listeners []*listener
	started   []activity.Event // and not stopped, in their order
	begun     func()           // is called when a builder starts; may be nil
}

func newFan() *fan { return &fan{} }

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
	queue  *backlog // nil: is told directly
}

// add lets the sink of ctx listen, from what is under way on.
func (f *fan) add(ctx context.Context) *listener {
	sink, parent := activity.SinkOf(ctx)
	l := &listener{f: f, sink: sink, parent: parent}
	if sink == nil {
		return l
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.listeners) > 0 {
		l.queue = newBacklog()
	}
	f.listeners = append(f.listeners, l)
	for _, e := range f.started {
		l.start(e)
	}
	return l
}

// close ends listening. What is still under way ends for this listener.
func (l *listener) close() {
	l.f.mu.Lock()
	i := slices.Index(l.f.listeners, l)
	if i >= 0 {
		l.f.listeners = slices.Delete(l.f.listeners, i, i+1)
		for _, e := range slices.Backward(l.f.started) {
			l.do(true, func() { l.sink.Stop(e.ID) })
		}
	}
	l.f.mu.Unlock()
	if l.queue != nil {
		l.queue.close()
	}
}

// do tells something, at once or when it is its turn.
func (l *listener) do(must bool, tell func()) {
	if l.queue == nil {
		tell()
		return
	}
	l.queue.push(must, tell)
}

func (l *listener) start(e activity.Event) {
	if e.Parent == 0 {
		e.Parent = l.parent
	}
	l.do(true, func() { l.sink.Start(e) })
}

// Log implements activity.Sink.
func (f *fan) Log(level activity.Level, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.listeners {
		l.do(false, func() { l.sink.Log(level, text) })
	}
}

// Start implements activity.Sink.
func (f *fan) Start(e activity.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started = append(f.started, e)
	if e.Type == activity.Build && f.begun != nil {
		f.begun()
	}
	for _, l := range f.listeners {
		l.start(e)
	}
}

// Stop implements activity.Sink.
func (f *fan) Stop(id uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started = slices.DeleteFunc(f.started, func(e activity.Event) bool { return e.ID == id })
	for _, l := range f.listeners {
		l.do(true, func() { l.sink.Stop(id) })
	}
}

// Result implements activity.Sink.
func (f *fan) Result(id uint64, what activity.ResultType, fields []activity.Field) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.listeners {
		l.do(false, func() { l.sink.Result(id, what, fields) })
	}
}

// backlog is what waits to be told to somebody who must not hold up others.
type backlog struct {
	mu     sync.Mutex
	more   sync.Cond
	queue  []func()
	closed bool
	done   chan struct{}
}

func newBacklog() *backlog {
	b := &backlog{done: make(chan struct{})}
	b.more.L = &b.mu
	go b.run()
	return b
}

// push adds something. What need not be told is left out if too much waits.
func (b *backlog) push(must bool, tell func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !must && len(b.queue) >= fanBacklog {
		return
	}
	b.queue = append(b.queue, tell)
	b.more.Signal()
}

func (b *backlog) run() {
	defer close(b.done)
	for {
		b.mu.Lock()
		for len(b.queue) == 0 && !b.closed {
			b.more.Wait()
		}
		queue := b.queue
		b.queue = nil
		b.mu.Unlock()
		if len(queue) == 0 {
			return
		}
		for _, tell := range queue {
			tell()
		}
	}
}

// close comes back when all has been told.
func (b *backlog) close() {
	b.mu.Lock()
	b.closed = true
	b.more.Signal()
	b.mu.Unlock()
	<-b.done
}
