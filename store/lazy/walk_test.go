package lazy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
)

// Readers, evictions, interruptions, processes that come and go, and an origin that fails, lies and
// breaks off, all at random: nobody ever reads a wrong byte, and in the end everything can be
// read.
func TestRandomWalk(t *testing.T) {
	steps := 120
	if testing.Short() {
		steps = 50
	}
	seed, steps := testenv.Walk(t, steps)
	var objects []storetest.Object
	for i := range 8 {
		objects = append(objects, tree(t, fmt.Sprintf("o%d", i)))
	}
	bad, good := newOrigin(t, "bad", objects...), newOrigin(t, "good", objects...)
	var calm atomic.Bool
	var mu sync.Mutex
	faults := rand.New(rand.NewPCG(seed, 1))
	bad.Before = func(context.Context, string, string) error {
		mu.Lock()
		defer mu.Unlock()
		if !calm.Load() && faults.IntN(10) == 0 {
			return errors.New("the network is down")
		}
		return nil
	}
	spoil(bad, func(b io.ReadCloser) io.ReadCloser {
		mu.Lock()
		how := faults.IntN(5)
		mu.Unlock()
		if calm.Load() {
			return b
		}
		switch how {
		case 0:
			return cut(b)
		case 1:
			return flip(b)
		case 2:
			return breaks(b)
		}
		return b
	})
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{bad.trusted(), good.trusted()}}, lazy.CacheOptions{})
	var known sync.Map // numbers that were given out
	for at := range steps {
		r := rand.New(rand.NewPCG(seed, uint64(at)+10))
		switch r.IntN(15) {
		case 0:
			if _, err := s.cache.Evict(t.Context(), lazy.EvictOptions{All: true}); err != nil {
				t.Fatal(err)
			}
		case 1:
			s.settled() // another process serves
		default:
			var readers sync.WaitGroup
			for range 1 + r.IntN(4) {
				o, cancelAfter := objects[r.IntN(len(objects))], time.Duration(r.IntN(2000))*time.Microsecond
				interrupted := r.IntN(5) == 0
				readers.Go(func() {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if interrupted {
						time.AfterFunc(cancelAfter, cancel)
					}
					s.walk(ctx, o, &known)
				})
			}
			readers.Wait()
		}
		if t.Failed() {
			t.Fatalf("at step %d", at)
		}
	}
	calm.Store(true)
	for _, o := range objects {
		s.wants(o.Path(), "bin/hello", "hello from "+o.Path().Name())
	}
	s.settled()
	known.Range(func(number, want any) bool {
		ob, err := s.objects.Object(t.Context(), number.(uint64))
		if err != nil {
			t.Errorf("number %d: %v", number, err)
			return true
		}
		var p [100]byte
		node, _ := ob.Tree().Find(0, "bin")
		node, _ = ob.Tree().Find(node, "hello")
		if n, err := ob.ReadAt(t.Context(), node, p[:], 0); err != nil || string(p[:n]) != want {
			t.Errorf("number %d: %q, %v", number, p[:n], err)
		}
		return true
	})
	if len(here(t, s.cache)) == 0 {
		t.Error("nothing is kept")
	}
}

// walk reads from an object, some of it by a number.
func (s *setup) walk(ctx context.Context, o storetest.Object, known *sync.Map) {
	name := o.Path().Name()
	for file, want := range map[string]string{"bin/hello": "hello from " + name, "share/doc": strings.Repeat(name, 1000), "share/empty": ""} {
		ob, node, err := s.find(ctx, o.Path(), file)
		if err != nil {
			s.t.Log(err)
			continue
		}
		known.Store(ob.Number(), "hello from "+name)
		b := make([]byte, len(want)+1)
		n, err := ob.ReadAt(ctx, node, b, 0)
		if err == nil && string(b[:n]) != want {
			s.t.Errorf("%s/%s is %.100q", name, file, b[:n])
		}
		if err != nil && n > 0 || errors.Is(err, fusefs.ErrStale) {
			s.t.Errorf("%s/%s: %d bytes and %v", name, file, n, err)
		}
	}
}
