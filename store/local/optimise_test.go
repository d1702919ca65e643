package local_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// twins are objects with files of equal contents.
func twins(t *testing.T, names ...string) (out []storetest.Object) {
	t.Helper()
	for _, n := range names {
		out = append(out, storetest.File(t, storepath.DefaultDir, n, "twin"))
	}
	return out
}

// links is how many names a file has.
func links(t *testing.T, path string) uint64 {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(fi.Sys().(*syscall.Stat_t).Nlink)
}

func TestAutoOptimise(t *testing.T) {
	s := open(t, local.Options{Root: testenv.Scratch(t)})
	two := twins(t, "a", "b", "c")
	add(t, s, two[0])
	view, err := s.Override(map[string]string{"auto-optimise-store": "true"})
	if err != nil {
		t.Fatal(err)
	}
	add(t, view.(*local.Store), two[1:]...)
	for i, want := range []uint64{1, 3, 3} {
		if got := links(t, filepath.Join(s.RealDir(), two[i].Path().Base())); got != want {
			t.Errorf("object %d: %d links, want %d", i, got, want)
		}
	}
	if err := s.Optimise(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := links(t, filepath.Join(s.RealDir(), two[0].Path().Base())); got != 4 {
		t.Errorf("%d links when all are optimised", got)
	}
	r, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit})
	if err != nil {
		t.Fatal(err)
	}
	if want := blocks(t); r.BytesFreed != want {
		t.Errorf("%d bytes were freed of one file that takes %d", r.BytesFreed, want)
	}
	if left := names(t, filepath.Join(s.RealDir(), ".links")); len(left) > 0 {
		t.Errorf("links of nothing: %q", left)
	}
}

// blocks is how many bytes one of the twins takes.
func blocks(t *testing.T) uint64 {
	t.Helper()
	path := filepath.Join(testenv.Scratch(t), "f")
	if err := os.WriteFile(path, []byte("twin"), 0o600); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(fi.Sys().(*syscall.Stat_t).Blocks) * 512
}

// What files with a link take counts when it is really given back, and not later.
func TestLimitedCollectionOfOptimisedStore(t *testing.T) {
	s := open(t, local.Options{Root: testenv.Scratch(t), AutoOptimise: true})
	for _, n := range []string{"a", "b", "c"} {
		add(t, s, storetest.File(t, s.Dir(), n, strings.Repeat(n, 10_000)))
	}
	r, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: 1})
	if err != nil || len(r.Paths) != 1 || r.BytesFreed < 10_000 || r.BytesFreed > 20_000 {
		t.Errorf("%+v, %v", r, err)
	}
}

// A stock process and we optimise one store, each on what the other has done.
func TestStockOptimisesTheSameStore(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	s := open(t, local.Options{Root: nix.Dir})
	objects := twins(t, "a", "b", "c", "d")
	optimise := func() {
		t.Helper()
		if err := s.Optimise(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	add(t, s, objects[:2]...)
	optimise()
	add(t, s, objects[2])
	nix.Run(t, "nix-store", "--optimise")
	add(t, s, objects[3])
	optimise()
	for _, o := range objects {
		if got := links(t, filepath.Join(s.RealDir(), o.Path().Base())); got != 5 {
			t.Errorf("%s: %d links", o.Path(), got)
		}
	}
	if names := names(t, filepath.Join(s.RealDir(), ".links")); len(names) != 1 {
		t.Errorf(".links has %q", names)
	}
	if out := nix.Run(t, "nix-store", "--verify", "--check-contents"); strings.Contains(out, "modified") {
		t.Error(out)
	}
}
