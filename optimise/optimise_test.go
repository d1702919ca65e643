package optimise_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/optimise"
)

// tree makes a store directory with objects; contents by path, "x:" before those
// of executables, "->" before targets of symlinks.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	store := filepath.Join(testenv.Scratch(t), "store")
	if err := os.MkdirAll(store, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, contents := range files {
		path := filepath.Join(store, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(contents, "->"); ok {
			err = os.Symlink(target, path)
		} else {
			text, exec := strings.CutPrefix(contents, "x:")
			mode := os.FileMode(0o444)
			if exec {
				mode = 0o555
			}
			err = os.WriteFile(path, []byte(text), mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	entries, _ := os.ReadDir(store)
	for _, e := range entries {
		if err := nar.Canonicalise(t.Context(), filepath.Join(store, e.Name()), nar.CanonicaliseOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return store
}

func linker(t *testing.T, store string, o optimise.Options) *optimise.Linker {
	t.Helper()
	l, err := optimise.New(store, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func run(t *testing.T, l *optimise.Linker, names ...string) (sum optimise.Stats) {
	t.Helper()
	for _, n := range names {
		if err := l.Count(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range names {
		s, err := l.Object(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		sum.Add(s)
	}
	return sum
}

func inode(t *testing.T, path string) (ino, links uint64) {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	return st.Ino, uint64(st.Nlink)
}

// used is the disk space of the files of a tree, each counted once.
func used(t *testing.T, dir string) (n int64) {
	t.Helper()
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		fi, err := e.Info()
		if st := fi.Sys().(*syscall.Stat_t); err == nil && !seen[st.Ino] {
			seen[st.Ino] = true
			n += st.Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func dump(t *testing.T, path string) string {
	t.Helper()
	var b strings.Builder
	if err := nar.Dump(t.Context(), &b, path); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// sealed fails unless a directory has the mode and time of everything in a store.
func sealed(t *testing.T, dir string) {
	t.Helper()
	fi, err := os.Lstat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm() != 0o555 || fi.ModTime().Unix() != 1 {
		t.Errorf("%s: mode %v, time %v", dir, fi.Mode(), fi.ModTime())
	}
}

func TestEqualFilesBecomeOne(t *testing.T) {
	store := tree(t, map[string]string{
		"a/f": "same", "a/sub/g": "same", "b/f": "same", "b/run": "x:same", "c": "same", "b/other": "else", "b/empty": "",
		"a/l": "->target", "b/l": "->target",
	})
	before0 := used(t, store)
	before := map[string]string{}
	for _, n := range []string{"a", "b", "c"} {
		before[n] = dump(t, filepath.Join(store, n))
	}
	var mu sync.Mutex
	heard := 0
	l := linker(t, store, optimise.Options{All: true, Linked: func(size, _ uint64) {
		mu.Lock()
		defer mu.Unlock()
		heard++
	}})
	s := run(t, l, "a", "b", "c")
	if s.Files != 4 || s.Bytes != uint64(before0-used(t, store)) || heard != 4 {
		t.Errorf("%+v, heard of %d, %d bytes left the disk", s, heard, before0-used(t, store))
	}
	ino, links := inode(t, store+"/a/f")
	if links != 5 {
		t.Errorf("%d links", links)
	}
	for _, p := range []string{"a/sub/g", "b/f", "c"} {
		if other, _ := inode(t, filepath.Join(store, p)); other != ino {
			t.Errorf("%s is a file of its own", p)
		}
	}
	if other, links := inode(t, store+"/b/run"); other == ino || links != 2 {
		t.Errorf("an executable shares an inode with what is none, or has %d links", links)
	}
	for n, want := range before {
		if dump(t, filepath.Join(store, n)) != want {
			t.Errorf("%s has changed", n)
		}
	}
	for _, d := range []string{"a", "a/sub", "b"} {
		sealed(t, filepath.Join(store, d))
	}
	if left, _ := filepath.Glob(store + "/*-strata-tmp-link-*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	// Once more there is nothing to do, whether it is known or has to be found out.
	for _, all := range []bool{true, false} {
		if s := run(t, linker(t, store, optimise.Options{All: all}), "a", "b", "c"); s != (optimise.Stats{}) {
			t.Errorf("all %v: again %+v", all, s)
		}
	}
}

func TestSuspiciousFilesAreLeftAlone(t *testing.T) {
	store := tree(t, map[string]string{"a/f": "same", "b/f": "same"})
	if err := os.Chmod(store+"/b/f", 0o644); err != nil {
		t.Fatal(err)
	}
	var said []string
	warn := func(_ context.Context, format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	if s := run(t, linker(t, store, optimise.Options{Warn: warn}), "a", "b"); s.Files != 0 {
		t.Errorf("%+v", s)
	}
	if len(said) != 1 || !strings.Contains(said[0], "skipping suspicious writable file '"+store+"/b/f'") {
		t.Errorf("said %q", said)
	}
}

func TestCorruptedLinksGoAway(t *testing.T) {
	for _, c := range []struct {
		with   string
		repair bool
		linked uint64
	}{{"changed!", false, 0}, {"emas", true, 0}, {"emas", false, 1}} {
		store := tree(t, map[string]string{"a": "same", "b": "same"})
		warned := 0
		l := linker(t, store, optimise.Options{Repair: c.repair, Warn: func(context.Context, string, ...any) { warned++ }})
		run(t, l, "a")
		links, _ := filepath.Glob(store + "/.links/*")
		if len(links) != 1 {
			t.Fatalf("links: %v", links)
		}
		if err := errors.Join(os.Remove(links[0]), os.WriteFile(links[0], []byte(c.with), 0o444)); err != nil {
			t.Fatal(err)
		}
		if s := run(t, l, "b"); s.Files != c.linked || (warned == 0) != (c.linked == 1) {
			t.Errorf("%+v: %+v, %d warnings", c, s, warned)
		}
	}
}

// A directory that a killed run left writable is mended by the next.
func TestInterruptedRunsAreMended(t *testing.T) {
	store := tree(t, map[string]string{"a/d/f": "same"})
	if err := os.Chmod(store+"/a/d", 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, linker(t, store, optimise.Options{}), "a")
	sealed(t, store+"/a/d")
}

func TestManyAtOnce(t *testing.T) {
	files := map[string]string{}
	var names []string
	for i := range 40 {
		n := fmt.Sprintf("o%d", i)
		names = append(names, n)
		for j := range 25 {
			files[fmt.Sprintf("%s/d/%d", n, j)] = fmt.Sprintf("contents %d", j%5)
		}
	}
	store := tree(t, files)
	l := linker(t, store, optimise.Options{All: true})
	for _, n := range names {
		if err := l.Count(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var sum optimise.Stats
	for _, n := range append(names, names...) {
		wg.Go(func() {
			s, err := l.Object(t.Context(), n)
			mu.Lock()
			defer mu.Unlock()
			sum.Add(s)
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	inodes := map[uint64]bool{}
	for p := range files {
		ino, _ := inode(t, filepath.Join(store, p))
		inodes[ino] = true
	}
	if len(inodes) != 5 {
		t.Errorf("%d inodes for 5 contents", len(inodes))
	}
	if left, _ := filepath.Glob(store + "/*-strata-tmp-link-*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	sealed(t, store+"/o7/d")
}

func TestEndsWithItsContext(t *testing.T) {
	store := tree(t, map[string]string{"a/f": "x"})
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	if _, err := linker(t, store, optimise.Options{}).Object(ctx, "a"); !errors.Is(err, stop) {
		t.Error(err)
	}
}

func BenchmarkObject(b *testing.B) {
	dir := b.TempDir()
	for i := range 1000 {
		os.MkdirAll(fmt.Sprintf("%s/a/%d", dir, i/100), 0o755)
		os.WriteFile(fmt.Sprintf("%s/a/%d/%d", dir, i/100, i), fmt.Appendf(nil, "%d", i%500), 0o444)
	}
	for b.Loop() {
		l, err := optimise.New(dir, optimise.Options{})
		if err == nil {
			_, err = l.Object(b.Context(), "a")
		}
		if err != nil {
			b.Fatal(err)
		}
		_ = l.Close()
	}
}
