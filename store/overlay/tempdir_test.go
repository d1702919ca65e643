package overlay_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// What is being unpacked, in the upper and in a lower, is no damage and none of an upper's business,
// however long it takes: it is not deleted, and no whiteout hides the lower's.
func TestWorkInLayers(t *testing.T) {
	if !isolated(t) {
		return
	}
	unpacking := filepath.Join("nix/store", gc.TempName, "7-7")
	w := newWorld(t, 1, func(int, *local.Store) {})
	theirs := filepath.Join(w.lowers[0], unpacking)
	must(t, os.MkdirAll(theirs, 0o700), os.WriteFile(filepath.Join(theirs, "x"), []byte("half"), 0o600), overlayfs.Refresh(t.Context(), w.merged()))
	s := w.open(t)

	o := storetest.Tree(t, storepath.DefaultDir, "slow", map[string]string{"a": "a", "b/c": "c"})
	half, rest := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- s.Add(t.Context(), o.Info, half, store.AddOptions{NoCheckSigs: true}) }()
	nar, err := io.ReadAll(o.Reader())
	must(t, err)
	_, err = rest.Write(nar[:len(nar)/2]) // returns when that was read
	must(t, err)
	entries, err := os.ReadDir(w.upper())
	must(t, err)
	for _, e := range entries {
		if gc.IsTempName(e.Name()) {
			must(t, os.Chtimes(filepath.Join(w.merged(), e.Name()), time.Unix(1, 0), time.Unix(1, 0)))
		}
	}

	var over []func() error
	for _, name := range []string{o.Path().Base() + "-2.lock", "tmp-1-2"} { // as builders and stock Nix have them
		place := filepath.Join(w.merged(), name)
		if strings.HasSuffix(name, ".lock") {
			must(t, os.WriteFile(place, nil, 0o600))
		} else {
			must(t, os.Mkdir(place, 0o700))
		}
		must(t, os.Chtimes(place, time.Unix(1, 0), time.Unix(1, 0)))
		f, err := os.Open(place)
		must(t, err, unix.Flock(int(f.Fd()), unix.LOCK_EX))
		over = append(over, func() error { return errors.Join(f.Close(), os.Remove(place)) })
	}

	other, err := overlay.Open(t.Context(), w.options(), w.openLowers(t)) // as another process would
	must(t, err)
	r, err := other.Check(t.Context(), check.Options{Repair: true})
	must(t, err)
	if got := sentences(r); len(got) > 0 {
		t.Errorf("found %q", got)
	}
	_, err = other.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit})
	must(t, err, other.Close())
	for _, f := range over {
		must(t, f())
	}

	_, err = rest.Write(nar[len(nar)/2:])
	must(t, err, rest.Close(), <-done)
	entries, err = os.ReadDir(w.upper())
	must(t, err)
	for _, e := range entries {
		if e.Name() != o.Path().Base() && e.Name() != ".links" {
			t.Errorf("the upper has %s, %v", e.Name(), e.Type())
		}
	}
	if text, err := os.ReadFile(filepath.Join(theirs, "x")); string(text) != "half" {
		t.Errorf("the lower's has become %q, %v", text, err)
	}
	r, err = s.Check(t.Context(), check.Options{})
	must(t, err)
	if got := sentences(r); len(got) > 0 {
		t.Errorf("found %q", got)
	}
}
