package lazy_test

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// prefetched fetches an object as a command does, in a process of its own, and tells how much came by how many requests.
func (s *setup) prefetched(from *counting, paths ...storepath.Path) (bytes int64, parts int) {
	s.t.Helper()
	from.taken()
	other := newSetup(s.t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{Dir: s.cache.Dir()})
	if err := other.store.Prefetch(s.t.Context(), paths, lazy.PrefetchOptions{}); err != nil {
		s.t.Error(err)
	}
	for _, p := range paths {
		if !s.cache.Has(p) {
			s.t.Errorf("'%s' is not here", p)
		}
	}
	return from.taken()
}

// What is here of an object is not fetched again when the rest of it is.
func TestPrefetchFetchesWhatIsMissing(t *testing.T) {
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"bin/hello": "hello", "lib/a": noise(1, 3_000_000), "lib/b": noise(2, 3_000_000)}
			for i := range 200 {
				files[fmt.Sprintf("share/%03d", i)] = noise(i, 5_000)
			}
			o := storetest.Tree(t, dir, "o", files)
			files["share/new"] = noise(7, 20_000)
			next := storetest.Tree(t, dir, "o2", files)
			from := indexed(t, "a", form, o, next)
			s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
			s.wants(o.Path(), "lib/a", files["lib/a"])
			s.settled()
			all := int64(o.Info.NarSize)
			had, _ := from.taken()
			if n, parts := s.prefetched(from, o.Path()); had+n > all+all/10 || n < 3_000_000 || parts > 10 {
				t.Errorf("of %d bytes %d came for a reader, and %d by %d requests for the rest", all, had, n, parts)
			}
			if n, parts := s.prefetched(from, next.Path()); n > 300_000 || parts > 3 {
				t.Errorf("%d bytes were fetched by %d requests for an object of which one small file is new", n, parts)
			}
			for file, want := range files {
				s.wants(next.Path(), file, want)
			}
		})
	}
}

// Where nothing is here one request is enough.
func TestPrefetchOfAllIsOneRequest(t *testing.T) {
	o := storetest.Tree(t, dir, "o", map[string]string{"a": noise(1, 9_000_000), "b": noise(2, 9_000_000)})
	from := indexed(t, "a", forms["zstd"], o)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
	if n, parts := s.prefetched(from, o.Path()); parts != 1 {
		t.Errorf("%d bytes by %d requests", n, parts)
	}
}

// The parts of a file that several processes have fetched make a whole one.
func TestPrefetchPutsPartsOfSeveralProcessesTogether(t *testing.T) {
	text := noise(1, 4<<20)
	o := storetest.Tree(t, dir, "o", map[string]string{"big": text})
	from := indexed(t, "a", forms["not compressed"], o)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
	for _, half := range []int64{0, 2 << 20} {
		one := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{Dir: s.cache.Dir()})
		ob, node, err := one.find(t.Context(), o.Path(), "big")
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 2<<20)
		if n, err := ob.ReadAt(t.Context(), node, p, half); err != nil || string(p[:n]) != text[half:half+2<<20] {
			t.Errorf("%d bytes, %v", n, err)
		}
		one.settled()
	}
	if found, _ := filepath.Glob(filepath.Join(s.cache.Dir(), "files/*/*.part")); len(found) == 0 && !s.cache.Has(o.Path()) {
		t.Error("there are no parts")
	}
	if n, parts := s.prefetched(from, o.Path()); n > 0 {
		t.Errorf("%d bytes came by %d requests, although all was here", n, parts)
	}
	s.wants(o.Path(), "big", text)
}

// What is here and is not what it was is fetched again.
func TestPrefetchComparesWhatIsHere(t *testing.T) {
	files := map[string]string{"a": noise(1, 50_000), "b": noise(2, 50_000), "big": noise(3, 1_000_000)}
	o := storetest.Tree(t, dir, "o", files)
	from := indexed(t, "a", forms["not compressed"], o)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
	s.wants(o.Path(), "a", files["a"])
	s.settled()
	kept, err := filepath.Glob(filepath.Join(s.cache.Dir(), "files/*/*"))
	if err != nil || len(kept) == 0 {
		t.Fatalf("%q, %v", kept, err)
	}
	for _, name := range kept {
		change(t, name)
	}
	s.prefetched(from, o.Path())
	for file, want := range files {
		s.wants(o.Path(), file, want)
	}
}

// What an index promised that was wrong is not taken for the object.
func TestPrefetchByAnIndexOfAnotherNAR(t *testing.T) {
	form := forms["not compressed"]
	a := storetest.Tree(t, dir, "o", map[string]string{"bin/hello": "hello", "bin/other": "other"})
	b := storetest.Tree(t, dir, "o", map[string]string{"bin/hello": "HELLO", "bin/other": "OTHER"})
	from := indexed(t, "a", form, a)
	x := indexAt(t, from, a)
	x.Contents = indexAt(t, indexed(t, "b", form, b), b).Contents
	swapIndex(t, from, a, x)
	from.Body = func(name string, r io.ReadCloser) io.ReadCloser {
		if !strings.HasPrefix(name, "nar/") {
			return r
		}
		part, _ := io.ReadAll(r)
		return body{strings.NewReader(strings.NewReplacer("hello", "HELLO", "other", "OTHER").Replace(string(part))), r}
	}
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
	if _, err := s.read(t.Context(), a.Path(), "bin/hello"); err != nil {
		t.Fatal(err)
	}
	s.settled()
	if err := s.store.Prefetch(t.Context(), pathsOf(a), lazy.PrefetchOptions{}); !errors.Is(err, lazy.ErrUnavailable) || s.cache.Has(a.Path()) {
		t.Errorf("%v", err)
	}
	from.Body = nil
	s.prefetched(from, a.Path())
	s.wants(a.Path(), "bin/hello", "hello")
}
