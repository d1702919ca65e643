package substitute_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/substitute"
)

func names(sources []substitute.Source) (out []string) {
	for _, s := range sources {
		out = append(out, s.Name)
	}
	return out
}

func TestPoolOrder(t *testing.T) {
	pool := substitute.NewPool(func(_ context.Context, uri string) (store.Store, error) {
		if uri == "https://bare" {
			return struct{ store.Store }{newCache()}, nil // does not say how it wants to be used
		}
		return &cache{priority: 40, massQuery: true}, nil
	})
	defer pool.Close()
	sources, failed, err := pool.Sources(t.Context(), []string{
		"https://b/", "https://a", "https://first?priority=10", "https://bare", "https://b/", "https://few?want-mass-query=false&trusted=true", "https://bad?priority=high", "nonsense", "daemon",
	})
	if err != nil || len(failed) != 2 || failed[0].URI != "https://bad?priority=high" || !errors.Is(failed[1], store.ErrReference) {
		t.Errorf("%v, %v", failed, err)
	}
	want := "[https://bare https://first https://b https://a https://few daemon]"
	if got := fmt.Sprint(names(sources)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if !sources[2].MassQuery || sources[4].MassQuery || !sources[4].Trusted || sources[3].Trusted || sources[0].MassQuery {
		t.Errorf("%+v", sources)
	}
}

func TestPoolOpensOnce(t *testing.T) {
	var mu sync.Mutex
	opened := 0
	pool := substitute.NewPool(func(context.Context, string) (store.Store, error) {
		mu.Lock()
		defer mu.Unlock()
		opened++
		return newCache(), nil
	})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if s, failed, err := pool.Sources(t.Context(), []string{"https://a"}); err != nil || len(s) != 1 || failed != nil {
				t.Errorf("%v, %v, %v", s, failed, err)
			}
		})
	}
	all.Wait()
	if opened != 1 {
		t.Errorf("opened %d times", opened)
	}
}

func TestPoolTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		down := errors.New("down")
		pool := substitute.NewPool(func(context.Context, string) (store.Store, error) {
			if attempts++; attempts < 3 {
				return nil, down
			}
			return newCache(), nil
		})
		engine := func() *substitute.Engine {
			return substitute.New(pool, newCache(), substitute.Settings{URIs: []string{"https://a?x=1"}})
		}
		for i, want := range []struct {
			wait     time.Duration
			attempts int
			sources  int
		}{{0, 1, 0}, {time.Second, 1, 0}, {time.Minute, 2, 0}, {time.Minute, 3, 1}, {time.Hour, 3, 1}} {
			time.Sleep(want.wait)
			r := newRecord()
			e := engine()
			for range 2 { // it is told once
				s, err := e.Sources(activity.With(t.Context(), r))
				if err != nil || len(s) != want.sources || attempts != want.attempts {
					t.Errorf("%d: %v, %v; %d attempts", i, s, err, attempts)
				}
			}
			if n := r.said("warning: cannot use substituter 'https://a?x=1': down"); n != 1-want.sources {
				t.Errorf("%d: %q", i, r.lines)
			}
		}
	})
}

// That nobody waits any more says nothing about a source.
func TestPoolCanceled(t *testing.T) {
	opening := make(chan struct{}, 1)
	ready := make(chan struct{})
	pool := substitute.NewPool(func(ctx context.Context, _ string) (store.Store, error) {
		opening <- struct{}{}
		select {
		case <-ready:
			return newCache(), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		if _, _, err := pool.Sources(ctx, []string{"https://a"}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	<-opening
	cancel()
	all.Wait()
	close(ready)
	if s, failed, err := pool.Sources(t.Context(), []string{"https://a"}); err != nil || len(s) != 1 {
		t.Errorf("%v, %v, %v", s, failed, err)
	}
}
