package builder

import "sync"

// maxBacklog is how many messages may wait for somebody who listens.
const maxBacklog = 10_000

// backlog is what waits to be told to one listener.
type backlog struct {
	patient bool // whoever has more to tell waits for room

	mu      sync.Mutex
	changed sync.Cond
	queue   []func()
	closed  bool
	done    chan struct{}
}

func newBacklog(patient bool) *backlog {
	b := &backlog{patient: patient, done: make(chan struct{})}
	b.changed.L = &b.mu
	go b.run()
	return b
}

// push adds something. When too much waits already, what need not be told is left
// out, unless the backlog is patient. Nothing is added to what is closed.
func (b *backlog) push(must bool, tell func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !must && !b.closed && len(b.queue) >= maxBacklog {
		if !b.patient {
			return
		}
		b.changed.Wait()
	}
	if b.closed {
		return
	}
	b.queue = append(b.queue, tell)
	b.changed.Broadcast()
}

func (b *backlog) run() {
	defer close(b.done)
	for {
		b.mu.Lock()
		for len(b.queue) == 0 && !b.closed {
			b.changed.Wait()
		}
		queue := b.queue
		b.queue = nil
		b.changed.Broadcast()
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
	b.changed.Broadcast()
	b.mu.Unlock()
	<-b.done
}
