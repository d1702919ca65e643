package overlay_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// hide does half of a removal: the lower's object is hidden by a whiteout.
func (w *world) hide(t *testing.T, o storetest.Object) {
	t.Helper()
	if err := testenv.RemoveAll(filepath.Join(w.merged(), o.Path().Base())); err != nil {
		t.Fatal(err)
	}
	if names := objects(t, w.upper()); len(names) == 0 {
		t.Fatal("there is no whiteout")
	}
}

// What a killed process has hidden shows when the store is opened the next time.
func TestOpeningFinishesInterruptedRemovals(t *testing.T) {
	if !isolated(t) {
		return
	}
	chain := storetest.Chain(t, storepath.DefaultDir, 2)
	w := newWorld(t, 1, func(_ int, s *local.Store) { addTo(t, s, chain...) })
	s := w.open(t)
	w.hide(t, chain[0])
	w.hide(t, chain[1])
	trash := filepath.Join(w.upper(), ".strata-trash-X")
	if err := os.MkdirAll(filepath.Join(trash, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	note := filepath.Join(s.StateDir(), "strata-removing-1.1")
	if err := os.WriteFile(note, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.open(t)
	if names := objects(t, w.upper()); len(names) > 0 {
		t.Errorf("the upper layer has %q", names)
	}
	for _, o := range chain {
		if _, err := os.Lstat(filepath.Join(w.merged(), o.Path().Base())); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(note); !os.IsNotExist(err) {
		t.Errorf("the note is still there: %v", err)
	}
}

// An object that a lower has is never lost for good, whatever hides it.
func TestHiddenObjectIsReadAllTheSame(t *testing.T) {
	if !isolated(t) {
		return
	}
	chain := storetest.Chain(t, storepath.DefaultDir, 2)
	w := newWorld(t, 1, func(_ int, s *local.Store) { addTo(t, s, chain...) })
	s := w.open(t)
	w.hide(t, chain[0])
	var got bytes.Buffer
	if err := s.NarFromPath(t.Context(), chain[0].Path(), &got); err != nil || !bytes.Equal(got.Bytes(), chain[0].NAR) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	w.hide(t, chain[1])
	if err := s.EnsurePath(t.Context(), chain[1].Path()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(w.merged(), chain[1].Path().Base())); err != nil {
		t.Error(err)
	}
}

func TestOpeningSearchesOnlyAfterACrash(t *testing.T) {
	if !isolated(t) {
		return
	}
	chain := storetest.Chain(t, storepath.DefaultDir, 1)
	w := newWorld(t, 1, func(_ int, s *local.Store) { addTo(t, s, chain...) })
	w.open(t)
	w.hide(t, chain[0])
	w.open(t)
	if names := objects(t, w.upper()); len(names) != 1 {
		t.Errorf("without a note the upper layer was searched; it has %q", names)
	}
}
