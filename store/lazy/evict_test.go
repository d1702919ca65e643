package lazy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

var addUnsigned = store.AddOptions{NoCheckSigs: true}

// filled is a setup whose cache has n objects that were used a long time ago, the first one
// first.
func filled(t *testing.T, n int, co lazy.CacheOptions) (*setup, []storetest.Object, *origin) {
	t.Helper()
	var objects []storetest.Object
	for i := range n {
		objects = append(objects, tree(t, fmt.Sprintf("o%d", i)))
	}
	from := newOrigin(t, "a", objects...)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}}, co)
	for i, o := range objects {
		s.wants(o.Path(), "bin/hello", "hello from "+o.Path().Name())
		s.settled()
		s.age(o.Path(), time.Duration(n-i)*time.Hour)
	}
	from.Calls()
	return s, objects, from
}

// age makes an object unused for so long.
func (s *setup) age(p storepath.Path, by time.Duration) {
	s.t.Helper()
	at := time.Now().Add(-by)
	if err := os.Chtimes(filepath.Join(s.cache.Dir(), "info", p.Base()), at, at); err != nil {
		s.t.Fatal(err)
	}
}

// here lists what a cache has, and fails if it is not as it should be.
func here(t *testing.T, c *lazy.Cache) (names []string) {
	t.Helper()
	paths, err := c.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		names = append(names, p.Name())
		info, err := c.Info(p)
		if err != nil {
			t.Error(err)
			continue
		}
		h := nixhash.SHA256.New()
		if err := nar.Dump(t.Context(), h, filepath.Join(c.Objects(), p.Base())); err != nil || nixhash.Sum(nixhash.SHA256, h) != info.NarHash {
			t.Errorf("'%s' is not what it should be (%v)", p, err)
		}
	}
	slices.Sort(names)
	for _, dir := range []string{"info", "trees"} {
		entries, err := os.ReadDir(filepath.Join(c.Dir(), dir))
		if err != nil || len(entries) != len(paths) {
			t.Errorf("%d entries in %s for %d objects (%v)", len(entries), dir, len(paths), err)
		}
	}
	return names
}

func TestTheLongestUnusedGoFirst(t *testing.T) {
	s, objects, from := filled(t, 4, lazy.CacheOptions{})
	one, err := s.cache.Evict(t.Context(), lazy.EvictOptions{Room: 1})
	if err != nil || len(one.Paths) != 1 || one.Paths[0] != objects[0].Path() || one.Objects != 3 {
		t.Errorf("%+v, %v", one, err)
	}
	if names := here(t, s.cache); !slices.Equal(names, []string{"o1", "o2", "o3"}) {
		t.Errorf("%q", names)
	}
	// What is gone comes again.
	s.wants(objects[0].Path(), "bin/hello", "hello from o0")
	s.settled()
	if n := from.nars(); n != 1 {
		t.Errorf("%d NARs were fetched", n)
	}
	// And what has just been used stays.
	out, err := s.cache.Evict(t.Context(), lazy.EvictOptions{Room: 1 << 40})
	if names := here(t, s.cache); err != nil || !slices.Equal(names, []string{"o0"}) {
		t.Errorf("%q are left, %+v, %v", names, out, err)
	}
}

func TestBounds(t *testing.T) {
	s, _, _ := filled(t, 4, lazy.CacheOptions{})
	reopened := func(o lazy.CacheOptions) *lazy.Evicted {
		o.Dir = s.cache.Dir()
		c, err := lazy.OpenCache(o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		out, err := c.Evict(t.Context(), lazy.EvictOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := reopened(lazy.CacheOptions{}); len(out.Paths) != 0 {
		t.Errorf("without bounds %v", out.Paths)
	}
	if out := reopened(lazy.CacheOptions{MaxAge: 3*time.Hour + time.Minute}); len(out.Paths) != 1 {
		t.Errorf("too old: %v", out.Paths)
	}
	half := reopened(lazy.CacheOptions{}).Left / 2
	if out := reopened(lazy.CacheOptions{MaxBytes: half}); len(out.Paths) != 2 || out.Left > half {
		t.Errorf("too much: %v of %d, %d are left", out.Paths, 2*half, out.Left)
	}
}

func TestWhatIsUsedOrPinnedStays(t *testing.T) {
	s, objects, _ := filled(t, 3, lazy.CacheOptions{})
	if err := s.cache.Pin("mine", []storepath.Path{objects[0].Path()}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(s.cache.Objects(), objects[1].Path().Base(), "bin/hello"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.cache.Evict(t.Context(), lazy.EvictOptions{All: true})
	if err != nil || out.Pinned != 1 || out.InUse != 1 || len(out.Paths) != 1 {
		t.Errorf("%+v, %v", out, err)
	}
	if names := here(t, s.cache); !slices.Equal(names, []string{"o0", "o1"}) {
		t.Errorf("%q", names)
	}
	if err := errors.Join(f.Close(), s.cache.Unpin("mine")); err != nil {
		t.Fatal(err)
	}
	if out, err = s.cache.Evict(t.Context(), lazy.EvictOptions{Paths: []storepath.Path{objects[0].Path()}}); err != nil || len(out.Paths) != 1 {
		t.Errorf("%+v, %v", out, err)
	}
	if err := s.cache.Pin("../x", nil); !errors.Is(err, lazy.ErrPinName) {
		t.Errorf("%v", err)
	}
}

// Users are told before anything is deleted; one who cannot forget keeps it.
func TestUsersAreTold(t *testing.T) {
	s, objects, _ := filled(t, 2, lazy.CacheOptions{})
	var told []string
	var refuse error
	done, err := s.cache.Register(t.Context(), lazy.User{Dirs: []string{"/somewhere"}, Forget: func(_ context.Context, names []string) error {
		for _, name := range names {
			if _, err := os.Lstat(filepath.Join(s.cache.Objects(), name)); err == nil {
				t.Errorf("'%s' is still there", name)
			}
		}
		told = append(told, names...)
		return refuse
	}})
	if err != nil {
		t.Fatal(err)
	}
	refuse = errors.New("not now")
	if out, err := s.cache.Evict(t.Context(), lazy.EvictOptions{All: true}); err == nil || !strings.Contains(err.Error(), "not now") || len(out.Paths) != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	if names := here(t, s.cache); len(names) != 2 {
		t.Errorf("%q", names)
	}
	refuse = nil
	if out, err := s.cache.Evict(t.Context(), lazy.EvictOptions{All: true}); err != nil || len(out.Paths) != len(objects) {
		t.Errorf("%+v, %v", out, err)
	}
	if len(told) != 2*len(objects) {
		t.Errorf("told of %q", told)
	}
	if err := done(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(filepath.Join(s.cache.Dir(), "users")); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

// Users come and go while others evict.
func TestUsersComeAndGo(t *testing.T) {
	s, objects, _ := filled(t, 2, lazy.CacheOptions{})
	end := make(chan struct{})
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				done, err := s.cache.Register(t.Context(), lazy.User{Dirs: []string{"/somewhere"}, Forget: func(context.Context, []string) error { return nil }})
				if err == nil {
					err = done()
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 12 {
		s.wants(objects[0].Path(), "bin/hello", "hello from "+objects[0].Path().Name())
		if _, err := s.cache.Evict(t.Context(), lazy.EvictOptions{All: true}); err != nil {
			t.Error(err)
			break
		}
	}
	close(end)
	all.Wait()
	if entries, err := os.ReadDir(filepath.Join(s.cache.Dir(), "users")); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

// Two processes share a cache; so do two that have it open in one.
func TestSharedCache(t *testing.T) {
	o := tree(t, "o")
	from := newOrigin(t, "a", o)
	a := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}}, lazy.CacheOptions{})
	b := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}}, lazy.CacheOptions{Dir: a.cache.Dir()})
	done := make(chan struct{})
	go func() {
		a.wants(o.Path(), "bin/hello", "hello from o")
		close(done)
	}()
	b.wants(o.Path(), "bin/hello", "hello from o")
	<-done
	if n := from.nars(); n != 1 {
		t.Errorf("%d NARs were fetched", n)
	}
}

func TestNotACache(t *testing.T) {
	d := t.TempDir()
	if err := os.WriteFile(filepath.Join(d, "letters"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := lazy.OpenCache(lazy.CacheOptions{Dir: d}); !errors.Is(err, lazy.ErrCacheVersion) {
		t.Errorf("%v", err)
	}
	if entries, _ := os.ReadDir(d); len(entries) != 1 {
		t.Errorf("%v", entries)
	}
}

// What was read of a file, and evicted by somebody else, is not taken for the hole that is there when another part of the file has
// come since.
func TestPartsThatOthersHaveEvicted(t *testing.T) {
	o, files := large(t, "o")
	from := indexed(t, "a", forms["zstd"], o)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
	others, err := lazy.OpenCache(lazy.CacheOptions{Dir: s.cache.Dir()})
	if err != nil {
		t.Fatal(err)
	}
	defer others.Close()
	big := files["lib/big"]
	at := func(off int) {
		t.Helper()
		ob, node, err := s.find(t.Context(), o.Path(), "lib/big")
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1000)
		if n, err := ob.ReadAt(t.Context(), node, b, int64(off)); err != nil || string(b[:n]) != big[off:off+1000] {
			t.Errorf("at %d: %d bytes, %v", off, n, err)
		}
	}
	// Every chunk but one, so that the file is not complete; and then that one, as if the others were there.
	const chunk = fileindex.ChunkSize
	for off := 0; off+1000 < len(big)-chunk; off += chunk {
		at(off)
	}
	if _, err := others.Evict(t.Context(), lazy.EvictOptions{All: true}); err != nil {
		t.Fatal(err)
	}
	at(len(big) - 1000)
	for off := 0; off+1000 < len(big); off += chunk {
		at(off)
	}
	s.settled()
	if d := s.store.Counts().Damaged; d != 0 {
		t.Errorf("%d files were damaged", d)
	}
	s.wants(o.Path(), "lib/big", big)
}
