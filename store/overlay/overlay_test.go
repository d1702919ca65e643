package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// world is some lower stores and an upper, mounted.
type world struct {
	dir    string
	lowers []string
	mount  *overlayfs.OverlayMount
}

// newWorld makes n lower stores; fill puts something in before the mount.
func newWorld(t *testing.T, n int, fill func(i int, s *local.Store)) *world {
	t.Helper()
	w := &world{dir: testenv.Scratch(t)}
	o := overlayfs.Options{Upper: filepath.Join(w.dir, "upper"), Work: filepath.Join(w.dir, "work"), Target: w.merged()}
	for i := range n {
		root := filepath.Join(w.dir, fmt.Sprintf("lower%d", i))
		s, err := local.Open(t.Context(), local.Options{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		if fill != nil {
			fill(i, s)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		w.lowers = append(w.lowers, root)
		o.Lowers = append(o.Lowers, filepath.Join(root, "nix/store"))
	}
	for _, d := range []string{o.Upper, o.Work, o.Target} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m, err := overlayfs.Mount(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmount(context.WithoutCancel(t.Context()), overlayfs.UnmountOptions{}); err != nil {
			t.Errorf("something holds on to the merged directory: %v", err)
		}
	})
	w.mount = m
	return w
}

func (w *world) merged() string { return filepath.Join(w.dir, "merged/nix/store") }
func (w *world) upper() string  { return filepath.Join(w.dir, "upper") }

func (w *world) options() overlay.Options {
	return overlay.Options{Upper: local.Options{Root: filepath.Join(w.dir, "merged"), State: filepath.Join(w.dir, "state")}, UpperLayer: w.upper()}
}

// open opens the layered store; the test's cleanup closes it before the mount goes.
func (w *world) open(t *testing.T) *overlay.Store {
	t.Helper()
	s, err := overlay.Open(t.Context(), w.options(), w.openLowers(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return s
}

func (w *world) openLowers(t *testing.T) (out []store.Store) {
	t.Helper()
	for _, root := range w.lowers {
		out = append(out, w.lower(t, root, true))
	}
	return out
}

func (w *world) lower(t *testing.T, root string, readOnly bool) *local.Store {
	t.Helper()
	s, err := local.Open(t.Context(), local.Options{Root: root, ReadOnly: readOnly, URI: "local?root=" + root})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func addTo(t *testing.T, s store.Adder, objects ...storetest.Object) {
	t.Helper()
	for _, o := range objects {
		if err := s.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
			t.Fatalf("adding %s: %v", o.Path(), err)
		}
	}
}

// inLayer lists the objects of a directory.
func objects(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != ".links" {
			out = append(out, e.Name())
		}
	}
	return out
}

func rows(t *testing.T, s *overlay.Store) (out []string) {
	t.Helper()
	for p, err := range s.AllPaths(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p.Name())
	}
	slices.Sort(out)
	return out
}

func isolated(t *testing.T) bool {
	t.Helper()
	return testenv.Isolate(t, testenv.Namespace{})
}

func TestStore(t *testing.T) {
	if !isolated(t) {
		return
	}
	storetest.Run(t, storetest.Options{Open: func(t *testing.T) store.Store { return newWorld(t, 2, nil).open(t) }})
}

func TestStoreInUserNamespace(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{User: true}) {
		return
	}
	storetest.Run(t, storetest.Options{Open: func(t *testing.T) store.Store { return newWorld(t, 1, nil).open(t) }})
}

// Asking about what lowers have gives their answers and writes nothing.
func TestAskingWritesNothing(t *testing.T) {
	if !isolated(t) {
		return
	}
	chain := storetest.Chain(t, storepath.DefaultDir, 4)
	w := newWorld(t, 2, func(i int, s *local.Store) { addTo(t, s, chain[:2+2*i]...) })
	s := w.open(t)
	var paths []storepath.Path
	for _, o := range chain {
		paths = append(paths, o.Path())
	}
	if v, err := s.ValidPaths(t.Context(), paths); err != nil || !slices.Equal(v, paths) {
		t.Errorf("valid: %v, %v", v, err)
	}
	infos, err := s.PathInfos(t.Context(), paths)
	if err != nil {
		t.Fatal(err)
	}
	for i, info := range infos {
		if info == nil || info.NarHash != chain[i].Info.NarHash {
			t.Errorf("%s: %+v", paths[i], info)
		}
	}
	refs, err := s.Referrers(t.Context(), paths[:1])
	if err != nil || !slices.Equal(refs[0], paths[1:2]) {
		t.Errorf("referrers: %v, %v", refs, err)
	}
	if p, err := s.PathFromHashPart(t.Context(), paths[3].HashPart()); err != nil || p != paths[3] {
		t.Errorf("hash part: %v, %v", p, err)
	}
	if err := s.NarFromPath(t.Context(), paths[3], io.Discard); err != nil {
		t.Error(err)
	}
	if got := rows(t, s); len(got) != 0 {
		t.Errorf("the upper's database has %q", got)
	}
	if got := objects(t, w.upper()); len(got) != 0 {
		t.Errorf("the upper layer has %q", got)
	}
}

// What is added brings the metadata of what it leans on, and nothing else.
func TestRegisteringCopiesUp(t *testing.T) {
	if !isolated(t) {
		return
	}
	chain := storetest.Chain(t, storepath.DefaultDir, 4)
	w := newWorld(t, 2, func(i int, s *local.Store) { addTo(t, s, chain[:1+2*i]...) })
	s := w.open(t)
	addTo(t, s, chain[3])
	if got, want := rows(t, s), []string{"chain-0", "chain-1", "chain-2", "chain-3"}; !slices.Equal(got, want) {
		t.Errorf("rows: %q", got)
	}
	if got := objects(t, w.upper()); !slices.Equal(got, []string{chain[3].Path().Base()}) {
		t.Errorf("the upper layer has %q", got)
	}
	// Adding what a lower has writes no object.
	addTo(t, s, chain[2])
	if got := objects(t, w.upper()); len(got) != 1 {
		t.Errorf("the upper layer has %q", got)
	}
}

// Deleting takes the upper's copy, and the lower's shows.
func TestDeleteDuplicate(t *testing.T) {
	if !isolated(t) {
		return
	}
	for name, hook := range map[string]bool{"refresh": false, "hook": true} {
		t.Run(name, func(t *testing.T) {
			tree := storetest.Tree(t, storepath.DefaultDir, "tree", map[string]string{"bin/x": "x", "share/y": "y"})
			own := storetest.File(t, storepath.DefaultDir, "own", "z")
			w := newWorld(t, 1, nil)
			o := w.options()
			ran := filepath.Join(w.dir, "hook-ran")
			if hook {
				o.RemountHook = filepath.Join(w.dir, "hook")
				script := "#!/bin/sh\nset -e\necho \"$1\" >" + ran + "\nmount -i -o remount \"$1\"\n"
				if err := os.WriteFile(o.RemountHook, []byte(script), 0o755); err != nil { //nolint:gosec // a program
					t.Fatal(err)
				}
			}
			s, err := overlay.Open(t.Context(), o, w.openLowers(t))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			addTo(t, s, tree, own)
			l := w.lower(t, w.lowers[0], false)
			addTo(t, l, tree) // behind the daemon's back
			_ = l.Close()

			inode := func(dir string) uint64 { return inodeOf(t, filepath.Join(dir, tree.Path().Base(), "bin/x")) }
			if inode(w.merged()) == inode(filepath.Join(w.lowers[0], "nix/store")) {
				t.Fatal("the lower's copy shows before the upper's is gone")
			}
			res, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteSpecific, Paths: []storepath.Path{tree.Path(), own.Path()}})
			if err != nil || res.BytesFreed == 0 || len(res.Paths) != 2 {
				t.Errorf("%+v, %v", res, err)
			}
			if got := objects(t, w.upper()); len(got) != 0 {
				t.Errorf("the upper layer has %q", got)
			}
			if b, err := os.ReadFile(filepath.Join(w.merged(), tree.Path().Base(), "share/y")); err != nil || string(b) != "y" {
				t.Errorf("through the mount: %q, %v", b, err)
			}
			if v, err := s.ValidPaths(t.Context(), []storepath.Path{tree.Path(), own.Path()}); err != nil || !slices.Equal(v, []storepath.Path{tree.Path()}) {
				t.Errorf("valid: %v, %v", v, err)
			}
			if _, err := os.Stat(ran); (err == nil) != hook {
				t.Errorf("the hook: %v", err)
			}
		})
	}
}

// Collecting deletes what the upper has, never what a lower has, and counts only
// what left the disk.
func TestCollectGarbage(t *testing.T) {
	if !isolated(t) {
		return
	}
	chain := storetest.Chain(t, storepath.DefaultDir, 6)
	w := newWorld(t, 1, func(_ int, s *local.Store) { addTo(t, s, chain[:3]...) })
	s := w.open(t)
	addTo(t, s, chain[3:]...)
	link := filepath.Join(w.dir, "root")
	if _, err := s.AddPermRoot(t.Context(), chain[3].Path(), link); err != nil {
		t.Fatal(err)
	}
	all := store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}
	res, err := s.CollectGarbage(t.Context(), all)
	if err != nil || len(res.Paths) != 2 {
		t.Errorf("%+v, %v", res, err)
	}
	if got, want := rows(t, s), []string{"chain-0", "chain-1", "chain-2", "chain-3"}; !slices.Equal(got, want) {
		t.Errorf("rows: %q", got)
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	res, err = s.CollectGarbage(t.Context(), all)
	if err != nil || len(res.Paths) != 1 || res.BytesFreed == 0 || res.BytesFreed > 1<<20 {
		t.Errorf("%+v, %v", res, err)
	}
	if got := rows(t, s); len(got) != 0 {
		t.Errorf("rows: %q", got)
	}
	if got := objects(t, filepath.Join(w.lowers[0], "nix/store")); len(got) != 3 {
		t.Errorf("the lower has %q", got)
	}
	if v, err := s.ValidPaths(t.Context(), []storepath.Path{chain[2].Path()}); err != nil || len(v) != 1 {
		t.Errorf("the lower's paths: %v, %v", v, err)
	}
}

func TestOptimiseDropsDuplicates(t *testing.T) {
	if !isolated(t) {
		return
	}
	chain := storetest.Chain(t, storepath.DefaultDir, 3)
	differs := storetest.File(t, storepath.DefaultDir, "differs", "one")
	twin := storetest.File(t, storepath.DefaultDir, "twin", "one")
	below := storetest.File(t, storepath.DefaultDir, "below", "one")
	w := newWorld(t, 1, func(_ int, l *local.Store) { addTo(t, l, below) })
	s := w.open(t)
	addTo(t, s, chain...)
	addTo(t, s, differs, twin)
	l := w.lower(t, w.lowers[0], false)
	addTo(t, l, chain[:2]...)
	other := storetest.File(t, storepath.DefaultDir, "differs", "two")
	other.Info.Path, other.Info.CA = differs.Path(), storepath.ContentAddress{}
	addTo(t, l, other)
	_ = l.Close()
	if err := s.Optimise(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := objects(t, w.upper())
	want := []string{chain[2].Path().Base(), differs.Path().Base(), twin.Path().Base()}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the upper layer has %q, want %q", got, want)
	}
	// What is left of equal files is one, but for those of lowers.
	if fi, err := os.Lstat(filepath.Join(w.upper(), twin.Path().Base())); err != nil || fi.Sys().(*syscall.Stat_t).Nlink != 3 {
		t.Errorf("the upper's twins: %v, %v", fi, err)
	}
	if len(rows(t, s)) != 5 {
		t.Errorf("rows: %q", rows(t, s))
	}
	if b, err := os.ReadFile(filepath.Join(w.merged(), differs.Path().Base())); err != nil || string(b) != "one" {
		t.Errorf("the one that differs: %q, %v", b, err)
	}
}

// The mount is checked before anything is written.
func TestWrongMountIsRefused(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWorld(t, 2, nil)
	other := filepath.Join(w.dir, "other")
	if err := os.MkdirAll(other, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(o *overlay.Options, ls *[]store.Store){
		"merged":       func(o *overlay.Options, _ *[]store.Store) { o.Upper.Real = other },
		"upper":        func(o *overlay.Options, _ *[]store.Store) { o.UpperLayer = other },
		"lower order":  func(_ *overlay.Options, ls *[]store.Store) { slices.Reverse(*ls) },
		"lower fewer":  func(_ *overlay.Options, ls *[]store.Store) { *ls = (*ls)[:1] },
		"merged gone":  func(o *overlay.Options, _ *[]store.Store) { o.Upper.Real = filepath.Join(w.dir, "nowhere") },
		"upper absent": func(o *overlay.Options, _ *[]store.Store) { o.UpperLayer = "" },
	} {
		o, ls := w.options(), w.openLowers(t)
		o.Upper.State = filepath.Join(w.dir, "state-of-wrong")
		change(&o, &ls)
		s, err := overlay.Open(t.Context(), o, ls)
		if err == nil {
			_ = s.Close()
			t.Errorf("%s: opened", name)
			continue
		}
		var bad *overlayfs.MismatchError
		if name != "upper absent" && (!errors.As(err, &bad) || !strings.Contains(err.Error(), "mounted incorrectly")) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(o.Upper.State); err == nil {
			t.Errorf("%s: refused, and the state directory was made", name)
		}
	}
}

// A lower that cannot be asked is an error that names it, not an invalid path.
func TestLowerThatCannotTell(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := storetest.File(t, storepath.DefaultDir, "x", "x")
	w := newWorld(t, 2, func(i int, s *local.Store) {
		if i == 1 {
			addTo(t, s, o)
		}
	})
	s := w.open(t)
	db := filepath.Join(w.lowers[1], "nix/var/nix/db")
	if err := os.Rename(db, db+".away"); err != nil {
		t.Fatal(err)
	}
	if v, err := s.ValidPaths(t.Context(), []storepath.Path{o.Path()}); err == nil || !strings.Contains(err.Error(), "lower 2 (local?root="+w.lowers[1]) {
		t.Errorf("valid: %v, %v", v, err)
	}
	if err := os.Rename(db+".away", db); err != nil {
		t.Fatal(err)
	}
	if v, err := s.ValidPaths(t.Context(), []storepath.Path{o.Path()}); err != nil || len(v) != 1 {
		t.Errorf("when it is back: %v, %v", v, err)
	}
}

// An object that a lower lost is damage of that lower.
func TestDamagedLowerIsNamed(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := storetest.File(t, storepath.DefaultDir, "x", "x")
	w := newWorld(t, 1, func(_ int, s *local.Store) { addTo(t, s, o) })
	s := w.open(t)
	if err := os.Remove(filepath.Join(w.lowers[0], "nix/store", o.Path().Base())); err != nil {
		t.Fatal(err)
	}
	var damage *store.DamageError
	err := s.NarFromPath(t.Context(), o.Path(), io.Discard)
	if !errors.As(err, &damage) || !strings.HasPrefix(damage.Layer, "lower 1") || damage.Path != s.Dir().Print(o.Path()) {
		t.Errorf("%v", err)
	}
}

// A lower that has vanished as a whole is named, too, and not the upper, which only knows of the object.
func TestVanishedLowerIsNamed(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := storetest.File(t, storepath.DefaultDir, "x", "x")
	w := newWorld(t, 1, func(_ int, s *local.Store) { addTo(t, s, o) })
	s := w.open(t)
	addTo(t, s, storetest.File(t, storepath.DefaultDir, "y", "y", o.Path()))
	must(t, os.Remove(filepath.Join(w.lowers[0], "nix/store", o.Path().Base())))
	must(t, testenv.RemoveAll(filepath.Join(w.lowers[0], "nix/var")))
	must(t, overlayfs.Refresh(t.Context(), s.RealDir())) // or the kernel goes on showing it
	var damage *store.DamageError
	err := s.NarFromPath(t.Context(), o.Path(), io.Discard)
	if !errors.As(err, &damage) || !strings.HasPrefix(damage.Layer, "lower 1") || damage.Path != s.Dir().Print(o.Path()) {
		t.Errorf("%v", err)
	}
}

func TestLayers(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := storetest.File(t, storepath.DefaultDir, "x", "x")
	w := newWorld(t, 2, func(_ int, s *local.Store) { addTo(t, s, o) })
	s := w.open(t)
	layers := s.Layers()
	if len(layers) != 3 || !layers[0].Upper || layers[1].Upper {
		t.Fatalf("%+v", layers)
	}
	for i, want := range []int{0, 1, 1} {
		if v, err := layers[i].Store.ValidPaths(t.Context(), []storepath.Path{o.Path()}); err != nil || len(v) != want {
			t.Errorf("%s: %v, %v", layers[i].Name, v, err)
		}
	}
	if _, ok := store.As[store.Adder](layers[1].Store); ok {
		t.Error("a lower can be written to")
	}
}
