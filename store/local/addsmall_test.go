package local_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

func emptyStore(t testing.TB, o local.Options) *local.Store {
	t.Helper()
	o.Root = testenv.Scratch(t)
	s, err := local.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// validOf tells of each object whether it is valid.
func validOf(t *testing.T, s *local.Store, objects []storetest.Object) []bool {
	t.Helper()
	there := make([]bool, len(objects))
	for i, o := range objects {
		v, err := s.ValidPaths(t.Context(), []storepath.Path{o.Path()})
		if err != nil {
			t.Fatal(err)
		}
		there[i] = len(v) > 0
	}
	return there
}

// wantFirst fails unless just the first n objects are valid.
func wantFirst(t *testing.T, s *local.Store, objects []storetest.Object, n int) {
	t.Helper()
	for i, is := range validOf(t, s, objects) {
		if is != (i < n) {
			t.Errorf("object %d: valid %v, want the first %d", i, is, n)
		}
	}
	clean(t, s)
}

var trusting = store.AddOptions{NoCheckSigs: true}

// Small and large objects, some twice and some valid before.
func TestAddManyOfAllKinds(t *testing.T) {
	s := emptyStore(t, local.Options{})
	chain := storetest.Chain(t, s.Dir(), 300)
	large := storetest.File(t, s.Dir(), "large", strings.Repeat("x", 100_000))
	for _, o := range []storetest.Object{chain[0], chain[1]} {
		if err := s.Add(t.Context(), o.Info, o.Reader(), trusting); err != nil {
			t.Fatal(err)
		}
	}
	list := slices.Concat(chain[:5], chain[2:4], []storetest.Object{large}, chain[4:150], []storetest.Object{large}, chain[100:])
	if err := s.AddMultiple(t.Context(), &storetest.Source{Objects: list}, trusting); err != nil {
		t.Fatal(err)
	}
	wantFirst(t, s, append(chain, large), len(chain)+1)
}

// callingSource calls a function before it gives an object.
type callingSource struct {
	storetest.Source
	n, at int
	call  func()
}

func (c *callingSource) Next() (*store.PathInfo, io.Reader, error) {
	if c.n == c.at {
		c.call()
	}
	c.n++
	return c.Source.Next()
}

// While objects are added, those after them are read: else this would wait for ever.
func TestAddManyReadsOn(t *testing.T) {
	s := emptyStore(t, local.Options{})
	chain := storetest.Chain(t, s.Dir(), 600)
	lock, err := flock.Open(filepath.Join(s.RealDir(), chain[100].Path().Base()+".lock"))
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := lock.Try(flock.Exclusive); !ok || err != nil {
		t.Fatal(ok, err)
	}
	src := &callingSource{Source: storetest.Source{Objects: chain}, at: 300, call: func() {
		lock.Delete() // as Nix does
		_ = lock.Close()
	}}
	if err := s.AddMultiple(t.Context(), src, trusting); err != nil {
		t.Fatal(err)
	}
	wantFirst(t, s, chain, len(chain))
}

// What comes before a lie stays, and nothing after it, wherever in a batch it is.
func TestAddManyWithALie(t *testing.T) {
	for _, at := range []int{0, 5, 255} {
		for what, lie := range map[string]func(*storetest.Object){
			"hash":  func(o *storetest.Object) { o.Info.NarHash = nixhash.Of(nixhash.SHA256, "other") },
			"short": func(o *storetest.Object) { o.Info.NarSize += 8 },
			"long":  func(o *storetest.Object) { o.Info.NarSize -= 8 },
			"none":  func(o *storetest.Object) { o.Info.NarSize = 0 },
			"cut":   func(o *storetest.Object) { o.NAR = o.NAR[:len(o.NAR)-16] },
		} {
			s := emptyStore(t, local.Options{})
			chain := storetest.Chain(t, s.Dir(), at+5)
			chain[at].Info = chain[at].Info.Clone()
			lie(&chain[at])
			if err := s.AddMultiple(t.Context(), &storetest.Source{Objects: chain}, trusting); err == nil {
				t.Errorf("%s at %d was believed", what, at)
			}
			wantFirst(t, s, chain, at)
		}
	}
}

func TestAddManyUnsigned(t *testing.T) {
	s := emptyStore(t, local.Options{RequireSigs: true})
	chain := storetest.Chain(t, s.Dir(), 10)
	plain := storetest.File(t, s.Dir(), "plain", "x").Plain(t, s.Dir(), false)
	list := append(slices.Clone(chain), plain, storetest.File(t, s.Dir(), "after", "x"))
	err := s.AddMultiple(t.Context(), &storetest.Source{Objects: list}, store.AddOptions{})
	if !errors.As(err, new(*store.SignatureError)) {
		t.Error(err)
	}
	wantFirst(t, s, list, len(chain)) // those are content-addressed
}

// brokenSource ends with an error after some objects.
type brokenSource struct {
	storetest.Source
	err error
}

func (b *brokenSource) Next() (*store.PathInfo, io.Reader, error) {
	info, r, err := b.Source.Next()
	if errors.Is(err, io.EOF) {
		err = b.err
	}
	return info, r, err
}

// A client that goes away leaves what was complete.
func TestAddManyFromABrokenSource(t *testing.T) {
	s := emptyStore(t, local.Options{})
	chain := storetest.Chain(t, s.Dir(), 30)
	lost := errors.New("lost")
	err := s.AddMultiple(t.Context(), &brokenSource{storetest.Source{Objects: chain[:20]}, lost}, trusting)
	if !errors.Is(err, lost) {
		t.Error(err)
	}
	wantFirst(t, s, chain, 20)
}

// Who waits for a lock that somebody else has holds none, and what came before is
// registered by then.
func TestAddManyWaitsWithoutLocks(t *testing.T) {
	s := emptyStore(t, local.Options{})
	chain := storetest.Chain(t, s.Dir(), 20)
	lockOf := func(i int) *flock.Lock {
		l, err := flock.Open(filepath.Join(s.RealDir(), chain[i].Path().Base()+".lock"))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	lock := lockOf(10)
	if ok, err := lock.Try(flock.Exclusive); !ok || err != nil {
		t.Fatal(ok, err)
	}
	waited := false
	ctx := activity.With(t.Context(), listener(func(text string) {
		if waited || !strings.Contains(text, "waiting for locks") {
			return
		}
		waited = true
		if v := validOf(t, s, chain); slices.Contains(v[:10], false) || slices.Contains(v[10:], true) {
			t.Errorf("while it waits: %v", v)
		}
		for _, i := range []int{5, 15} {
			other := lockOf(i)
			if ok, err := other.Try(flock.Exclusive); !ok || err != nil {
				t.Errorf("it waits with the lock of object %d: %v", i, err)
			}
			other.Delete()
			_ = other.Close()
		}
		lock.Delete() // as Nix does
		_ = lock.Close()
	}))
	if err := s.AddMultiple(ctx, &storetest.Source{Objects: chain}, trusting); err != nil || !waited {
		t.Fatal(waited, err)
	}
	wantFirst(t, s, chain, len(chain))
}

func BenchmarkAddMultiple(b *testing.B) {
	const n = 1000
	objects := make([]storetest.Object, n)
	for i := range objects {
		objects[i] = storetest.Tree(b, storepath.DefaultDir, fmt.Sprintf("tree-%d", i), map[string]string{
			"a": fmt.Sprint(i), "b": string(bytes.Repeat([]byte("x"), 2000)),
		})
	}
	for b.Loop() {
		s := emptyStore(b, local.Options{})
		if err := s.AddMultiple(b.Context(), &storetest.Source{Objects: objects}, trusting); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "objects/s")
}
