package gc

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/storepath"
)

// What somebody reads stays also when there is no room to say so.
func TestHoldOnFullDisk(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{User: os.Geteuid() != 0}) {
		return
	}
	f := newFake(t, "a")
	paths := []storepath.Path{path("a")}
	free := func() bool {
		t.Helper()
		l, err := flock.Open(filepath.Join(f.state, "gc.lock"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ok, err := l.Try(flock.Exclusive)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	roots := NewTempRootsFile(f.state, "1.test", dir)
	if err := roots.Hold(t.Context(), paths); err != nil || !free() {
		t.Errorf("with room a collection can begin: %t, %v", free(), err)
	}
	if got, err := ReadTempRoots(t.Context(), filepath.Join(f.state, "temproots"), dir); err != nil || len(got) != 1 {
		t.Errorf("the roots are %v, %v", got, err)
	}
	if err := roots.Close(); err != nil {
		t.Fatal(err)
	}

	// No file can be made there.
	full := filepath.Join(f.state, "temproots")
	if err := unix.Mount("none", full, "tmpfs", 0, "nr_inodes=1"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(full, unix.MNT_DETACH) }()
	roots = NewTempRootsFile(f.state, "2.test", dir)
	if err := roots.Add(t.Context(), paths); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("adding a root: %v", err)
	}
	for range 2 {
		if err := roots.Hold(t.Context(), paths); err != nil || free() {
			t.Errorf("a collection can begin: %v", err)
		}
	}
	if err := roots.Close(); err != nil || !free() {
		t.Errorf("no collection can begin afterwards: %v", err)
	}
}
