package stack

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func (w *world) openLowers(t *testing.T, texts ...string) ([]*OpenLower, error) {
	t.Helper()
	var lowers []Lower
	for _, text := range texts {
		l, err := ParseLower(text)
		if err != nil {
			t.Fatal(err)
		}
		lowers = append(lowers, l)
	}
	if err := os.MkdirAll(w.path("mounts"), 0o700); err != nil {
		t.Fatal(err)
	}
	return OpenLowers(t.Context(), lowers, OpenLowersOptions{WorkingDir: w.dir, StoreDir: storepath.DefaultDir, Mounts: w.path("mounts"), Open: openLower})
}

func TestOpenLowersWithoutAStack(t *testing.T) {
	mkfs := testenv.EROFSMount(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	w := newWorld(t)
	a, b := object(t, "a"), object(t, "b")
	if out, err := exec.Command(mkfs, w.path("img.erofs"), w.lower(t, "base", a)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.lower(t, "plain", b)
	all, err := w.openLowers(t, "./img.erofs", "./plain")
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range []storepath.Path{a.Path(), b.Path()} {
		if valid, err := all[i].Store.ValidPaths(t.Context(), []storepath.Path{o}); err != nil || len(valid) != 1 {
			t.Errorf("%s: %v, %v", all[i].Name, valid, err)
		}
		if _, err := os.Lstat(filepath.Join(all[i].Dir, o.Base())); err != nil {
			t.Error(err)
		}
	}
	if all[0].Name != "img" || all[0].Kind != KindImage || all[1].Kind != KindDirectory {
		t.Errorf("%+v, %+v", all[0], all[1])
	}
	for _, l := range all {
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	// What fails takes down what did not.
	if _, err := w.openLowers(t, "./img.erofs", "./gone"); err == nil {
		t.Error("opened")
	}
	if left := w.mounts(t); len(left) > 0 {
		t.Errorf("still mounted: %q", left)
	}
}

// A store that cannot be opened is not closed.
func TestLowerThatCannotBeOpened(t *testing.T) {
	w := &world{dir: testenv.Scratch(t)}
	w.lower(t, "base")
	l, err := ParseLower(w.path("base"))
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	_, err = OpenLowers(t.Context(), []Lower{l}, OpenLowersOptions{
		WorkingDir: "/", StoreDir: storepath.DefaultDir, Mounts: w.dir,
		Open: func(context.Context, store.Reference) (store.Store, error) {
			var none *closesBadly
			return none, broken
		},
	})
	var le *LowerError
	if !errors.As(err, &le) || !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if image, err := HasImage([]Lower{l}, "/"); image || err != nil {
		t.Errorf("%v, %v", image, err)
	}
}

// closesBadly is a store whose nil cannot be closed.
type closesBadly struct{ store.Store }

func (c *closesBadly) Close() error { return c.Store.Close() }
