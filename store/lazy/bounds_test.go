package lazy_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// Caches of several domains share their bounds.
func TestBoundsHoldForAllOfAMachine(t *testing.T) {
	pool := testenv.Scratch(t)
	domain := func(name string) lazy.CacheOptions {
		return lazy.CacheOptions{Dir: filepath.Join(pool, name), Pool: pool}
	}
	a, _, _ := filled(t, 3, domain("a"))
	b, objects, _ := filled(t, 3, domain("b"))
	all, err := a.cache.Usage(t.Context())
	if err != nil || all.Objects != 6 || all.Bytes <= 0 {
		t.Errorf("%+v, %v", all, err)
	}
	if err := b.cache.Pin("first", []storepath.Path{objects[0].Path()}); err != nil {
		t.Fatal(err)
	}
	o := domain("a")
	o.MaxBytes = all.Bytes / 2
	c, err := lazy.OpenCache(o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	out, err := c.Evict(t.Context(), lazy.EvictOptions{})
	if err != nil || out.Left > o.MaxBytes || out.Pinned != 1 {
		t.Errorf("%+v, %v", out, err)
	}
	if in := fmt.Sprint(here(t, a.cache), here(t, b.cache)); in != "[o2] [o0]" && in != "[] [o0 o2]" {
		t.Errorf("there are %s", in)
	}
	after, err := c.Usage(t.Context())
	if err != nil || after.Objects != 6-int64(len(out.Paths)) || after.Bytes != out.Left || after.Evicted != int64(len(out.Paths)) || after.Bound != o.MaxBytes {
		t.Errorf("%+v, %v", after, err)
	}
}

// diskOf is what the files of a cache take.
func diskOf(t *testing.T, c *lazy.Cache) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(c.Dir(), "files"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		err = unix.Lstat(path, &st)
		sum += st.Blocks * 512
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// What is read in parts keeps to the bounds also while it is read: others go for it, and what it is more than the bounds
// allow is given to who reads it and not kept.
func TestBoundsHoldForWhatIsBeingRead(t *testing.T) {
	const bound = 600 << 10
	const slack = 8 * fileindex.ChunkSize // several chunks are written at once
	first, few := storetest.Tree(t, dir, "first", map[string]string{"a": noise(1, 200_000), "b": noise(2, 200_000), "c": "c"}), 200_000
	second, files := large(t, "second")
	from := indexed(t, "a", forms["zstd"], first, second)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{MaxBytes: bound})
	for i, name := range []string{"a", "b"} {
		s.wants(first.Path(), name, noise(i+1, few))
	}
	s.settled()
	if n := diskOf(t, s.cache); n < 2*int64(few) {
		t.Fatalf("%d bytes are kept", n)
	}
	// They were read a while ago.
	ago := time.Now().Add(-time.Hour)
	err := filepath.WalkDir(filepath.Join(s.cache.Dir(), "files"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			err = os.Chtimes(path, ago, time.Time{})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.wants(second.Path(), "lib/big", files["lib/big"])
	s.settled()
	n := diskOf(t, s.cache)
	if n > bound+slack || n < bound/2 {
		t.Errorf("%d bytes are kept of %d that may be", n, bound)
	}
	if u, err := s.cache.Usage(t.Context()); err != nil || u.Bytes > bound+slack || u.Bytes < n-slack {
		t.Errorf("%+v, %v", u, err)
	}
	s.wants(second.Path(), "lib/big", files["lib/big"]) // again
	s.wants(first.Path(), "a", noise(1, few))
	s.wants(second.Path(), "share/doc", files["share/doc"])
	s.settled()
	if n := diskOf(t, s.cache); n > bound+slack {
		t.Errorf("%d bytes are kept of %d that may be", n, bound)
	}
	if c := s.store.Counts(); c.Through == 0 || c.EIO+c.Damaged+c.Lied+c.Refused+c.Failed != 0 {
		t.Errorf("%+v", c)
	}
	if !strings.Contains(s.logged(), "may not become larger") {
		t.Errorf("nothing says so:\n%s", s.logged())
	}
}

// A tally that is damaged is counted anew.
func TestDamagedTally(t *testing.T) {
	s, _, _ := filled(t, 2, lazy.CacheOptions{})
	want, err := s.cache.Usage(t.Context())
	if err != nil || want.Objects != 2 {
		t.Fatalf("%+v, %v", want, err)
	}
	for _, text := range []string{"", "x", "1 2 3", fmt.Sprintf("%0200d", 7)} {
		if err := os.WriteFile(filepath.Join(s.cache.Dir(), "tally"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := s.cache.Usage(t.Context()); err != nil || got.Objects != want.Objects || got.Bytes != want.Bytes {
			t.Errorf("after %.10q: %+v, %v", text, got, err)
		}
	}
}

const (
	walkerVar = "STRATA_TEST_WALKER"
	walkerMax = 64 << 10
)

// walkerChild fetches everything of a binary cache again and again into a cache that is too small.
func walkerChild(in string) {
	st, c, err := openBounded(in)
	for err == nil {
		for p, lerr := range st.origin.AllPaths(context.Background()) {
			if err = lerr; err == nil {
				err = st.Prefetch(context.Background(), []storepath.Path{p}, lazy.PrefetchOptions{NoClosure: true})
			}
			if err == nil {
				old := time.Now().Add(-2 * time.Minute) // as if nobody had looked for a while
				_ = os.Chtimes(filepath.Join(c.Dir(), "info", p.Base()), old, old)
				_, err = c.Evict(context.Background(), lazy.EvictOptions{})
			}
			if err != nil {
				break
			}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func openBounded(in string) (*crashed, *lazy.Cache, error) {
	st, c, err := openAt(in)
	if err != nil {
		return nil, nil, err
	}
	if err := c.Close(); err != nil {
		return nil, nil, err
	}
	c, err = lazy.OpenCache(lazy.CacheOptions{Dir: filepath.Join(in, "cache"), MaxBytes: walkerMax})
	if err != nil {
		return nil, nil, err
	}
	st.Store, err = lazy.Open(lazy.Options{Origins: []lazy.Origin{{Store: st.origin, Trusted: true}}, Cache: c})
	return st, c, err
}

// Several processes fill a cache and evict from it, and are killed one after the other. What is in use or
// pinned stays, all that is there is whole, and in the end the bound holds.
func TestProcessesShareABound(t *testing.T) {
	in := testenv.Scratch(t)
	objects, err := objstore.NewDirectory(filepath.Join(in, "from"))
	if err != nil {
		t.Fatal(err)
	}
	from, err := binarycache.Open(objects, binarycache.Options{URI: "file://" + in, Compression: compress.None})
	if err != nil {
		t.Fatal(err)
	}
	var paths []storepath.Path
	for i := range 8 {
		o := tree(t, fmt.Sprintf("o%d", i))
		paths = append(paths, o.Path())
		if err := from.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
			t.Fatal(err)
		}
	}
	st, c, err := openBounded(in)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := st.Prefetch(t.Context(), paths[:2], lazy.PrefetchOptions{NoClosure: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.Pin("it", paths[:1]); err != nil {
		t.Fatal(err)
	}
	used, err := os.Open(filepath.Join(c.Objects(), paths[1].Base(), "bin/hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer used.Close()
	old := time.Now().Add(-time.Hour)
	for _, p := range paths[:2] {
		if err := os.Chtimes(filepath.Join(c.Dir(), "info", p.Base()), old, old); err != nil {
			t.Fatal(err)
		}
	}
	start := func() *exec.Cmd {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), walkerVar+"="+in)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	const atOnce, kills = 3, 12
	var running []*exec.Cmd
	evicted := int64(0)
	for n := range kills {
		for len(running) < atOnce {
			running = append(running, start())
		}
		// It is killed when something has been evicted since the last one was.
		for end := time.Now().Add(time.Minute); ; {
			u, err := c.Usage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if u.Evicted > evicted {
				evicted = u.Evicted
				break
			}
			if time.Now().After(end) {
				t.Fatalf("nothing is evicted any more after %d kills", n)
			}
		}
		victim := running[0]
		running = running[1:]
		if err := victim.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := victim.Wait(); victim.ProcessState.Sys().(interface{ Signal() unix.Signal }).Signal() != unix.SIGKILL {
			t.Fatalf("it had ended by itself: %v", err)
		}
	}
	for _, cmd := range running {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	for _, p := range paths[:2] {
		if !c.Has(p) {
			t.Errorf("'%s' is gone", p.Name())
		}
	}
	for _, p := range paths[2:] {
		old := time.Now().Add(-2 * time.Minute)
		_ = os.Chtimes(filepath.Join(c.Dir(), "info", p.Base()), old, old)
	}
	// A count during which something came or went is made again after a second.
	for end := time.Now().Add(time.Minute); !countIsRight(t, c); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what is there is not what was counted")
		}
	}
	whole(t, in)
	out, err := c.Evict(t.Context(), lazy.EvictOptions{})
	if err != nil || out.Left > walkerMax {
		t.Errorf("%+v, %v", out, err)
	}
}

// countIsRight tells whether the tally of a cache has as many objects as there are, after an eviction.
func countIsRight(t *testing.T, c *lazy.Cache) bool {
	t.Helper()
	_, err := c.Evict(t.Context(), lazy.EvictOptions{})
	u, uerr := c.Usage(t.Context())
	all, lerr := c.List()
	if err := errors.Join(err, uerr, lerr); err != nil {
		t.Fatal(err)
	}
	return u.Objects == int64(len(all))
}

func pathsOf(objects ...storetest.Object) (paths []storepath.Path) {
	for _, o := range objects {
		paths = append(paths, o.Path())
	}
	return paths
}
