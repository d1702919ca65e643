package stack

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// background is what a stack that is up does without being asked. It ends and begins
// anew when the lowers are replaced.
type background struct {
	mu      sync.RWMutex
	watcher *watcher
	holds   []*held

	cancel context.CancelFunc
	wg     sync.WaitGroup

	publishing sync.Mutex // held while it is found out what is used, and told

	collected, leaned bell // what makes the owners of lowers be told sooner
}

// bell is rung when something has happened. The zero value is ready; who rings does not wait.
type bell struct {
	once sync.Once
	c    chan struct{}
}

func (b *bell) rung() chan struct{} {
	b.once.Do(func() { b.c = make(chan struct{}, 1) })
	return b.c
}

func (b *bell) ring() {
	select {
	case b.rung() <- struct{}{}:
	default:
	}
}

// set puts other ones in the place of what there is.
func (b *background) set(w *watcher, holds []*held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watcher, b.holds = w, holds
}

func (b *background) watching() *watcher {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.watcher
}

// held are the holds on lowers; nobody changes them.
func (b *background) held() []*held {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.holds
}

// startBackground tells the owners of lowers what is leaned on, and goes on doing so;
// and it begins to watch the lowers. What goes wrong shows in the status: a lower
// whose owner cannot be told may still be read.
func (s *Stack) startBackground(ctx context.Context) error {
	holds, err := s.openHolds(ctx, s.found, s.lowers, s.Store)
	if err != nil {
		return err
	}
	others, err := s.noteTold(holds)
	if err != nil {
		return err
	}
	s.background.set(s.watch(), holds)
	if len(holds)+len(others) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.background.cancel = cancel
	s.background.wg.Go(func() { s.keepPublishing(ctx, others) })
	return nil
}

// stopBackground ends all that.
func (s *Stack) stopBackground() {
	b := &s.background
	if w := b.watching(); w != nil {
		w.stop()
	}
	if b.cancel != nil {
		b.cancel()
	}
	b.wg.Wait()
	b.cancel = nil
	b.set(nil, nil)
}

// What is leaned on is told anew at least this often, and after an error sooner.
const (
	publishAtLeast = time.Hour
	publishAgain   = time.Minute
)

// publishSoon after a collection of garbage that a client asked for, the owners of lowers are told
// what is used now; several collections may come one after the other.
const publishSoon = 2 * time.Second

// restUntilPublication returns when the owners of lowers are to be told again: at the latest when that
// is due, a minute after something was leaned on, so that a hold knows what of that was given up
// again, and soon after a collection. It tells whether ctx goes on.
func (s *Stack) restUntilPublication(ctx context.Context) bool {
	due := time.NewTimer(s.nextPublication(ctx))
	defer due.Stop()
	leaned := s.background.leaned.rung()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-due.C:
			return true
		case <-leaned:
			leaned = nil // once
			due.Reset(min(publishAgain, s.nextPublication(ctx)))
		case <-s.background.collected.rung():
			return sleep(ctx, publishSoon)
		}
	}
}

// keepPublishing begins at once: who brings a stack up does not wait for it, as what
// is leaned on already was told before, and what is new is told first.
func (s *Stack) keepPublishing(ctx context.Context, others []told) {
	for {
		_, err := s.Publish(ctx)
		if err != nil && ctx.Err() == nil {
			s.parts.Log.Warn(fmt.Sprintf("telling the owners of lowers what is used of them: %v", err))
		}
		if err == nil && len(others) > 0 {
			if err := s.takeBack(ctx, others, s.background.held()); err != nil && ctx.Err() == nil {
				s.parts.Log.Warn(err.Error())
			}
			others = nil // the next start tries again
		}
		if !s.restUntilPublication(ctx) {
			return
		}
	}
}

// nextPublication is how long it may take until the next one.
func (s *Stack) nextPublication(ctx context.Context) time.Duration {
	pause := publishAtLeast
	for _, h := range s.background.held() {
		if h.failed() {
			pause = min(pause, publishAgain)
		}
		if every, err := h.do.interval(ctx); err == nil {
			pause = min(pause, every)
		}
	}
	return pause
}
