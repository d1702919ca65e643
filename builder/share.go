package builder

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// shareKey is what makes two builds the same.
type shareKey struct {
	drv  storepath.Path
	text nixhash.Hash // of a derivation that may differ from the one at drv
	mode store.BuildMode
	only *request // nil, or who alone has it
}

// shared is a build that is under way, for one request or for several.
type shared struct {
	waiters int // guarded by Builder.mu
	cancel  context.CancelFunc
	told    *fan
	done    chan struct{}

	// Good when done is closed.
	result *store.BuildResult
	err    error

	rootsOnce sync.Once
	tempRoots store.TempRoots
}

// roots are those of the build itself. They last until the last waiter has made
// the outcome its own.
func (s *shared) roots(st Store) store.TempRoots {
	s.rootsOnce.Do(func() { s.tempRoots = st.NewTempRoots() })
	return s.tempRoots
}

func (b *Builder) underWay(k shareKey) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.builds[k] != nil
}

// share gives the outcome of a build: of one that is under way, or of one that
// it starts. What is told of it reaches the sink of ctx. The build is killed when
// everybody who shares it has left, which is when their ctx ends; the last one
// comes back only when it is dead. keep is called with a success before anybody could
// collect what was built.
func (b *Builder) share(ctx context.Context, k shareKey, build func(context.Context, *shared) (*store.BuildResult, error),
	keep func(context.Context, *store.BuildResult) error,
) (result *store.BuildResult, joined bool, err error) {
	s, listening, joined := b.join(ctx, k, build)
	select {
	case <-s.done:
	case <-ctx.Done():
	}
	select {
	case <-s.done:
		result, err = s.result, s.err
		if err == nil && result.Status.OK() {
			err = keep(ctx, result)
		}
	default:
		err = context.Cause(ctx)
	}
	listening.close()
	b.leave(k, s)
	return result, joined, err
}

// join adds a waiter to a build.
func (b *Builder) join(ctx context.Context, k shareKey, build func(context.Context, *shared) (*store.BuildResult, error)) (s *shared, l *listener, joined bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s = b.builds[k]; s != nil {
		s.waiters++
		return s, s.told.add(ctx), true
	}
	s = &shared{waiters: 1, told: new(fan), done: make(chan struct{})}
	b.builds[k] = s
	l = s.told.add(ctx) // it hears all, from the beginning
	runCtx, cancel := context.WithCancel(activity.With(context.WithoutCancel(ctx), s.told))
	s.cancel = cancel
	go func() {
		s.err = caught(func() (err error) {
			s.result, err = build(runCtx, s)
			return err
		})
		b.forget(k, s)
		close(s.done)
	}()
	return s, l, false
}

// errBug is what a panic becomes. Requests of others shall not suffer from it.
var errBug = errors.New("internal error while building")

func caught(work func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v\n%s", errBug, p, debug.Stack())
		}
	}()
	return work()
}

// forget lets nobody join any more.
func (b *Builder) forget(k shareKey, s *shared) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.builds[k] == s {
		delete(b.builds, k)
	}
}

// leave takes a waiter away. The last one kills what is still under way.
func (b *Builder) leave(k shareKey, s *shared) {
	b.mu.Lock()
	s.waiters--
	last := s.waiters == 0
	if last && b.builds[k] == s {
		delete(b.builds, k)
	}
	b.mu.Unlock()
	if !last {
		return
	}
	s.cancel()
	<-s.done
	if s.tempRoots != nil {
		_ = s.tempRoots.Close() // what is to stay has other roots by now
	}
}
