package lazy_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// silent is an origin that never answers, and one that is deaf, too, does not even notice when nobody waits any more.
func silent(t *testing.T, deaf bool, objects ...storetest.Object) *origin {
	t.Helper()
	o := newOrigin(t, "silent", objects...)
	var err error
	if o.store, err = binarycache.Open(o.Objects, binarycache.Options{URI: "memory://silent"}); err != nil { // which knows nothing yet
		t.Fatal(err)
	}
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	o.Before = func(ctx context.Context, _, _ string) error {
		if deaf {
			<-end
			return errors.New("too late")
		}
		<-ctx.Done()
		return ctx.Err()
	}
	return o
}

// Nobody waits for an origin that does not answer any longer than for contents; then the next one is asked, and for a while it
// comes first.
func TestAnOriginDoesNotAnswer(t *testing.T) {
	a, b, none := tree(t, "a"), tree(t, "b"), tree(t, "none")
	for _, deaf := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newSetup(t, lazy.Options{Origins: []lazy.Origin{silent(t, deaf, a, b).trusted(), newOrigin(t, "good", a, b).trusted()}}, lazy.CacheOptions{})
			took := func() time.Duration {
				began := time.Now()
				s.wants(a.Path(), "bin/hello", "hello from a")
				return time.Since(began)
			}
			if d := took(); d < lazy.DefaultPatience || d > lazy.DefaultPatience+time.Second {
				t.Errorf("the first object took %s (deaf: %v): %s", d, deaf, s.logged())
			}
			began := time.Now()
			s.wants(b.Path(), "bin/hello", "hello from b")
			if d := time.Since(began); d > time.Second {
				t.Errorf("the second object took %s", d)
			}
			// What the other one has not is asked for there all the same, and not known.
			_, err := s.objects.Lookup(t.Context(), none.Path().Base())
			if d := time.Since(began); err == nil || !strings.Contains(err.Error(), "asking 'memory://silent': nothing has come") || errors.Is(err, context.DeadlineExceeded) || d > 3*lazy.DefaultPatience {
				t.Errorf("after %s: %v", d, err)
			}
			// A signal ends the waiting.
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, context.Canceled)
			defer cancel()
			began = time.Now()
			_, err = s.objects.Lookup(ctx, none.Path().Base())
			if d := time.Since(began); err == nil || d > 2*time.Second {
				t.Errorf("interrupted after %s: %v", d, err)
			}
		})
	}
}

// All who wait for the same are told after the same time, and each of them can be interrupted.
func TestWhatIsPinnedCannotBeFoundOut(t *testing.T) {
	a := tree(t, "a")
	synctest.Test(t, func(t *testing.T) {
		s := newSetup(t, lazy.Options{Origins: []lazy.Origin{silent(t, false, a).trusted()}, Scope: lazy.ClosureScope(a.Path())}, lazy.CacheOptions{})
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				if i == 5 {
					_, err := s.store.ValidPaths(ctx, []storepath.Path{a.Path()})
					if d := time.Since(began); !errors.Is(err, context.Canceled) || d > 2*time.Second {
						t.Errorf("interrupted after %s: %v", d, err)
					}
					return
				}
				_, err := s.store.ValidPaths(t.Context(), []storepath.Path{a.Path()})
				if d := time.Since(began); err == nil || d > lazy.DefaultPatience+2*time.Second {
					t.Errorf("after %s: %v", d, err)
				}
			})
		}
		time.Sleep(time.Second)
		cancel()
		all.Wait()
	})
}
