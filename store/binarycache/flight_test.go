package binarycache_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-nix/strata/internal/fault"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/objstore/objstoretest"
	"github.com/strata-nix/strata/storepath"
)

// slowly makes each read of a cache take a second.
func slowly(memory objstore.Store) *fault.Objects {
	return &fault.Objects{Store: memory, Before: func(ctx context.Context, _, _ string) error {
		select {
		case <-time.After(time.Second):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}}
}

func narinfos(calls []string) (n int) {
	for _, c := range calls {
		if strings.HasSuffix(c, ".narinfo") {
			n++
		}
	}
	return n
}

// Of many who want to know the same at the same time one asks; that there is nothing counts for those who
// came before that was asked.
func TestOneAsksForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := objstore.NewMemory()
		made := write(t, open(t, memory, nil))
		there, absent := made[0].Path(), node(t, "nobody")
		for _, c := range []struct {
			path  storepath.Path
			valid int
			asks  int
		}{{there, 1, 1}, {absent, 0, 2}} {
			objects := slowly(memory)
			s := open(t, objects, nil)
			if _, _, err := s.Advertise(t.Context()); err != nil {
				t.Fatal(err)
			}
			objects.Calls()
			first, cancel := context.WithCancel(t.Context())
			var all sync.WaitGroup
			ask := func(ctx context.Context, interrupted bool) {
				valid, err := s.ValidPaths(ctx, []storepath.Path{c.path})
				if interrupted && !errors.Is(err, context.Canceled) || !interrupted && (err != nil || len(valid) != c.valid) {
					t.Errorf("%v, %v", valid, err)
				}
			}
			for range 20 {
				all.Go(func() { ask(t.Context(), false) })
			}
			all.Wait()
			if n := narinfos(objects.Calls()); n != c.asks {
				t.Errorf("for '%s' the cache was asked %d times", c.path, n)
			}
			// He who asks is interrupted, and the others go on.
			all.Go(func() { ask(first, true) })
			synctest.Wait()
			for range 20 {
				all.Go(func() { ask(t.Context(), false) })
			}
			synctest.Wait()
			cancel()
			all.Wait()
			if n := narinfos(objects.Calls()); n > c.asks+1 {
				t.Errorf("after an interrupt the cache was asked %d times for '%s'", n, c.path)
			}
		}
	})
}

// When a cache cannot be asked, all who waited for that know.
func TestAllWhoWaitAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		memory := objstore.NewMemory()
		objects := &fault.Objects{Store: memory, Before: func(context.Context, string, string) error {
			asked.Add(1)
			time.Sleep(time.Second)
			if asked.Load() == 1 {
				return errors.New("the network is down")
			}
			return nil
		}}
		objstoretest.Put(t, memory, "nix-cache-info", "StoreDir: /nix/store\n")
		s := open(t, objects, nil)
		began := time.Now()
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if _, err := s.ValidPaths(t.Context(), []storepath.Path{node(t, "x")}); err == nil {
					t.Error("it could be asked")
				}
			})
		}
		all.Wait()
		if d := time.Since(began); d > 2*time.Second || asked.Load() != 1 {
			t.Errorf("asked %d times in %s", asked.Load(), d)
		}
		if _, err := s.ValidPaths(t.Context(), []storepath.Path{node(t, "x")}); err != nil {
			t.Errorf("later: %v", err)
		}
	})
}
