package lazy_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
)

// smallDisk mounts a file system of so many bytes. The test must be isolated.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	at := filepath.Join(testenv.Scratch(t), "small")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", at, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	return at
}

// On a full disk others are evicted first; what cannot be kept is served all the same, and verified
// all the same.
func TestDiskFull(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	at := smallDisk(t, "800k")
	var objects []storetest.Object
	large := map[string]string{}
	for _, name := range []string{"a", "b", "c"} {
		large[name] = strings.Repeat(name, 300<<10)
		objects = append(objects, storetest.Tree(t, dir, name, map[string]string{"bin/hello": "hello from " + name, "large": large[name]}))
	}
	huge := storetest.Tree(t, dir, "huge", map[string]string{"bin/hello": "hello from huge", "large": strings.Repeat("h", 3<<20)})
	bad := storetest.Tree(t, dir, "bad", map[string]string{"large": strings.Repeat("b", 3<<20)})
	from := newOrigin(t, "o", append(objects, huge)...)
	wrong := spoil(newOrigin(t, "bad", bad), flip)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted(), wrong.trusted()}}, lazy.CacheOptions{Dir: filepath.Join(at, "cache")})
	for _, o := range objects {
		s.wants(o.Path(), "large", large[o.Path().Name()])
		s.settled()
		s.age(o.Path(), time.Hour)
	}
	if names := here(t, s.cache); len(names) == 0 || len(names) == len(objects) || names[len(names)-1] != "c" {
		t.Errorf("%q are here", names)
	}
	// No room can be made for what is larger than the disk.
	var readers sync.WaitGroup
	from.Calls()
	for range 10 {
		readers.Go(func() { s.wants(huge.Path(), "bin/hello", "hello from huge") })
	}
	readers.Wait()
	s.wants(huge.Path(), "large", strings.Repeat("h", 3<<20))
	if n := from.nars(); n > 3 { // tried, tried again with room, and past the disk
		t.Errorf("%d NARs were fetched", n)
	}
	if c := s.store.Counts(); c.Through != 1 || c.EIO != 0 || c.Failed != 0 {
		t.Errorf("%+v", c)
	}
	if s.cache.Has(huge.Path()) {
		t.Error("it is kept")
	}
	if got, err := s.read(t.Context(), bad.Path(), "large"); err == nil || got != "" || !errors.Is(err, lazy.ErrUnavailable) && !strings.Contains(err.Error(), "malformed") {
		t.Errorf("%.20q, %v", got, err)
	}
	if n := strings.Count(s.logged(), "served from memory"); n != 1 {
		t.Errorf("it is logged %d times:\n%s", n, s.logged())
	}
	entries, err := os.ReadDir(filepath.Join(s.cache.Dir(), "tmp"))
	if err != nil || len(entries) > 0 {
		t.Errorf("%v are left, %v", entries, err)
	}
}

// On a full disk others are evicted for what is read in parts, too.
func TestDiskFullOfOthers(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	at := smallDisk(t, "800k")
	first := storetest.Tree(t, dir, "first", map[string]string{"large": noise(1, 500_000)})
	second := storetest.Tree(t, dir, "second", map[string]string{"large": noise(2, 500_000), "other": noise(3, 100_000)})
	from := indexed(t, "a", forms["zstd"], first, second)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{Dir: filepath.Join(at, "cache")})
	s.wants(first.Path(), "large", noise(1, 500_000))
	s.settled()
	if names := here(t, s.cache); len(names) != 1 {
		t.Fatalf("%q are here", names)
	}
	s.age(first.Path(), time.Hour)
	s.wants(second.Path(), "large", noise(2, 500_000))
	s.settled()
	from.taken()
	s.wants(second.Path(), "large", noise(2, 500_000))
	if n, _ := from.taken(); n != 0 {
		t.Errorf("%d bytes come again", n)
	}
	if names := here(t, s.cache); len(names) != 0 {
		t.Errorf("%q are here", names)
	}
}

// Pinned objects do not go for others.
func TestDiskFullOfPinned(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	at := smallDisk(t, "600k")
	a := storetest.Tree(t, dir, "a", map[string]string{"large": strings.Repeat("a", 400<<10)})
	b := storetest.Tree(t, dir, "b", map[string]string{"large": strings.Repeat("b", 400<<10), "link": "-> large"})
	from := newOrigin(t, "o", a, b)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}}, lazy.CacheOptions{Dir: filepath.Join(at, "cache")})
	if err := s.store.Prefetch(t.Context(), pathsOf(a), lazy.PrefetchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.cache.Pin("it", pathsOf(a)); err != nil {
		t.Fatal(err)
	}
	s.age(a.Path(), time.Hour)
	s.wants(b.Path(), "large", strings.Repeat("b", 400<<10))
	s.settled()
	s.wants(b.Path(), "large", strings.Repeat("b", 400<<10)) // another process
	if names := here(t, s.cache); len(names) != 1 || names[0] != "a" {
		t.Errorf("%q are here", names)
	}
}
