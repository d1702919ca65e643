package gc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

var deleteAll = store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}

// One object that cannot be deleted stops nothing, and is told at the end.
func TestWhatCannotBeDeletedIsPassedOver(t *testing.T) {
	f := newFake(t, "a>", "b>", "c>")
	p := f.parts()
	p.Aside = func(_ context.Context, moves []Move) {
		for i := range moves {
			if moves[i].Name == path("b").Base() {
				moves[i].Err = unix.EPERM
				continue
			}
			moves[i].Err = Rename(f.dir, &moves[i])
		}
	}
	res, err := Collect(t.Context(), p, deleteAll)
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), path("b").Base()) {
		t.Errorf("error: %v", err)
	}
	if got := f.files(t); got != path("b").Base() {
		t.Errorf("left: %s", got)
	}
	if len(res.Paths) != 2 || slices.Contains(res.Paths, dir.Print(path("b"))) {
		t.Errorf("result: %+v", res)
	}
	// The next collection takes it for what it is.
	if _, err := Collect(t.Context(), f.parts(), deleteAll); err != nil || f.files(t) != "" {
		t.Errorf("left after the next: %s, %v", f.files(t), err)
	}
}

// Many failures are counted, and not all told.
func TestFailuresAreBounded(t *testing.T) {
	var f failures
	if f.err() != nil {
		t.Error("an error of nothing")
	}
	for i := range 3 * maxFailures {
		f.add(fmt.Errorf("failure %d;", i))
	}
	if text := f.err().Error(); strings.Count(text, ";") != maxFailures || !strings.Contains(text, "and 40 more") {
		t.Error(text)
	}
}

// On a disk on which no directory can be made objects are deleted where they are.
func TestDeletionOnAFullDisk(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	f := newFake(t)
	f.dir = testenv.Scratch(t)
	if err := unix.Mount("none", f.dir, "tmpfs", 0, "nr_inodes=3"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(f.dir, unix.MNT_DETACH) }()
	f.object(t, "garbage-1")
	f.object(t, "garbage-2")
	p, removed := f.parts(), 0
	p.Remove = func(_ context.Context, names []string) (uint64, error) {
		removed += len(names)
		return 10, os.Remove(filepath.Join(f.dir, names[0]))
	}
	res, err := Collect(t.Context(), p, deleteAll)
	if err != nil || removed != 2 || res.BytesFreed != 20 || f.files(t) != "" {
		t.Errorf("%+v, %v, left %s", res, err, f.files(t))
	}
}

// shared gives objects one more file each, which is the same one; the links of an
// optimised store may have it, too.
func shared(t *testing.T, f *fake, linked bool, names ...string) (size uint64) {
	t.Helper()
	first := ""
	link := func(to string) {
		if first == "" {
			if first = to; os.WriteFile(to, make([]byte, 50_000), 0o444) != nil {
				t.Fatal("cannot write")
			}
		} else if err := os.Link(first, to); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range names {
		object := filepath.Join(f.dir, path(n).Base())
		if err := errors.Join(os.Remove(object), os.Mkdir(object, 0o755)); err != nil {
			t.Fatal(err)
		}
		link(filepath.Join(object, "file"))
	}
	if linked {
		if err := os.MkdirAll(filepath.Join(f.dir, ".links"), 0o755); err != nil {
			t.Fatal(err)
		}
		link(filepath.Join(f.dir, ".links", "hash"))
	}
	var st unix.Stat_t
	if err := unix.Lstat(first, &st); err != nil {
		t.Fatal(err)
	}
	return uint64(st.Blocks) * 512
}

// What several objects share counts once, with the last of them, and what is said
// beforehand is what is freed then.
func TestSharedFilesCountOnce(t *testing.T) {
	for _, linked := range []bool{false, true} {
		f := newFake(t, "a>", "b>", "c>")
		size := shared(t, f, linked, "a", "b", "c")
		f.link(t, "gcroots/r", "c")
		look := store.GCOptions{Action: store.ReturnDead, MaxFreed: store.NoLimit, Measure: true}
		said, err := Collect(t.Context(), f.parts(), look)
		if err != nil || !said.Measured || said.BytesFreed >= size {
			t.Errorf("linked %v, alive elsewhere: %+v, %v", linked, said, err)
		}
		if err := os.Remove(filepath.Join(f.state, "gcroots/r")); err != nil {
			t.Fatal(err)
		}
		if said, err = Collect(t.Context(), f.parts(), look); err != nil || said.BytesFreed < size || said.BytesFreed >= 2*size {
			t.Errorf("linked %v: %+v, %v", linked, said, err)
		}
		res, err := Collect(t.Context(), f.parts(), deleteAll)
		if err != nil || res.BytesFreed != said.BytesFreed {
			t.Errorf("linked %v: %d bytes were freed, %d said (%v)", linked, res.BytesFreed, said.BytesFreed, err)
		}
	}
}

// A limit is met in one batch, though the bytes come with the last of several objects.
func TestLimitWithSharedFiles(t *testing.T) {
	f := newFake(t, "a>", "b>", "c>", "d>", "e>")
	size := shared(t, f, true, "c", "d", "e") // deleted first, as the fake's rows are
	batches := 0
	f.onValid = func([]string) { batches++ }
	// Directories have a size on some file systems only, so that is no part of what is asked for.
	res, err := Collect(t.Context(), f.parts(), store.GCOptions{Action: store.DeleteDead, MaxFreed: size - 1})
	if err != nil || res.BytesFreed < size || f.left() != "a b" || batches != 1 {
		t.Errorf("%+v, %v, left %s after %d batches", res, err, f.left(), batches)
	}
}

func TestReferrersFirst(t *testing.T) {
	f := newFake(t, "a>bc", "b>d", "c>d", "d>d", "e>")
	order, ring := referrersFirst(f, func(i int) bool { return f.names[i] != "e" })
	names := func(nodes []int32) (s string) {
		for _, i := range nodes {
			s += f.names[i]
		}
		return s
	}
	if got := names(order); got != "acbd" || ring != 4 { // within a wave by row
		t.Errorf("order %s, ring %d", got, ring)
	}
	f = newFake(t, "a>b", "b>c", "c>b", "d>")
	order, ring = referrersFirst(f, func(int) bool { return true })
	if got := names(order[:ring]); got != "da" || len(order) != 4 {
		t.Errorf("before the ring %s, in all %s", got, names(order))
	}
	if _, err := Collect(t.Context(), f.parts(), deleteAll); err != nil || f.left() != "" {
		t.Errorf("left %s, %v", f.left(), err)
	}
}

func TestSkipAliveAndReferrers(t *testing.T) {
	for _, c := range []struct {
		delete, root, left string
		o                  store.GCOptions
		alive              bool
	}{
		{delete: "ab", root: "a", left: "a b c d", o: store.GCOptions{SkipAlive: true}},
		{delete: "abd", root: "a", left: "a b c", o: store.GCOptions{SkipAlive: true}},
		{delete: "b", left: "a b c d", o: store.GCOptions{SkipAlive: true}},
		{delete: "c", left: "d", o: store.GCOptions{Referrers: true}},
		{delete: "c", root: "a", left: "a b c d", o: store.GCOptions{Referrers: true}, alive: true},
		{delete: "cd", root: "b", left: "b c", o: store.GCOptions{Referrers: true, SkipAlive: true}},
	} {
		f := newFake(t, "a>b", "b>c", "c>", "d>")
		if c.root != "" {
			f.link(t, "gcroots/r", c.root)
		}
		c.o.Action = store.DeleteSpecific
		for _, n := range c.delete {
			c.o.Paths = append(c.o.Paths, path(string(n)))
		}
		_, err := Collect(t.Context(), f.parts(), c.o)
		if f.left() != c.left || errors.Is(err, store.ErrAlive) != c.alive {
			t.Errorf("%+v: left %s, %v", c, f.left(), err)
		}
	}
}

func TestWhy(t *testing.T) {
	f := newFake(t, "a>b", "b>c", "c>", "d>c", "e>", "f>", "x.drv>e")
	keeps := func(i int) []int32 {
		switch f.names[i] {
		case "f": // its deriver
			return []int32{6}
		case "x.drv": // an output
			return []int32{5}
		}
		return nil
	}
	roots := store.Roots{path("a"): {"/r/a"}, path("d"): {"/r/d1", "/r/d2"}, path("f"): {"{temp:1}"}, path("z"): {"/r/z"}}
	show := func(rs []store.Reason) string {
		var out []string
		for _, r := range rs {
			s := strings.Join(r.Links, "+") + ":"
			for _, step := range r.Chain {
				if step.Via != "" && step.Via != store.ByReference {
					s += "(" + string(step.Via) + ")"
				}
				s += step.Path.Name()
			}
			out = append(out, s)
		}
		return strings.Join(out, " ")
	}
	targets := []storepath.Path{path("c"), path("e"), path("a"), path("z"), path("y")}
	for nearest, want := range map[bool][]string{
		false: {"/r/d1+/r/d2:dc /r/a:abc", "{temp:1}:f(keep-derivations)x.drve", "/r/a:a", "/r/z:z", ""},
		true:  {"/r/d1+/r/d2:dc", "{temp:1}:f(keep-derivations)x.drve", "/r/a:a", "/r/z:z", ""},
	} {
		for i, rs := range Why(f, keeps, roots, targets, nearest) {
			if got := show(rs); got != want[i] {
				t.Errorf("%s, nearest %v: %s, want %s", targets[i], nearest, got, want[i])
			}
		}
	}
	if got := show(Why(f, keeps, store.Roots{path("x.drv"): {"/r/x"}}, []storepath.Path{path("f")}, true)[0]); got != "/r/x:x.drv(keep-outputs)f" {
		t.Error(got)
	}
}
