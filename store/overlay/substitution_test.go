package overlay_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
)

// What any lower has is not fetched; what comes lands in the upper layer, and the
// upper's database is whole by itself.
func TestSubstituteOverLowers(t *testing.T) {
	if !isolated(t) {
		return
	}
	testenv.Overlay(t)
	chain := storetest.Chain(t, storepath.DefaultDir, 9)
	source, err := local.Open(t.Context(), local.Options{Root: testenv.Scratch(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	addTo(t, source, chain...)
	w := newWorld(t, 2, func(i int, s *local.Store) { addTo(t, s, chain[:3+3*i]...) })
	o := w.options()
	o.Upper.Substituters = []string{"local?root=/source"}
	o.Upper.Pool = substitute.NewPool(func(context.Context, string) (store.Store, error) { return source, nil })
	s, err := overlay.Open(t.Context(), o, w.openLowers(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()

	plan, err := s.Substitution().Plan(t.Context(), substitute.Opaque(chain[7].Path()))
	if err != nil || len(plan.Infos) != 2 {
		t.Errorf("%+v, %v", plan, err)
	}
	results, err := s.Substitution().Substitute(t.Context(), substitute.Opaque(chain[7].Path(), chain[4].Path(), chain[1].Path()), substitute.Options{})
	if err != nil || results[0].Status != store.Substituted || results[1].Status != store.AlreadyValid || results[2].Status != store.AlreadyValid {
		t.Fatalf("%+v, %v", results, err)
	}
	if in := objects(t, w.upper()); len(in) != 2 {
		t.Errorf("in the upper layer: %q", in)
	}
	if _, err := store.Closure(t.Context(), s.Own(), []storepath.Path{chain[7].Path()}); err != nil {
		t.Errorf("the upper alone: %v", err)
	}

	// A view with settings of its own substitutes into the same layers.
	view, err := s.Override(map[string]string{"max-substitution-jobs": "0", "require-sigs": "true"})
	if err != nil {
		t.Fatal(err)
	}
	results, err = view.(*overlay.Store).Substitution().Substitute(t.Context(), substitute.Opaque(chain[8].Path()), substitute.Options{})
	if err != nil || results[0].Status != store.Substituted {
		t.Errorf("%+v, %v", results, err)
	}
	if in := objects(t, w.upper()); len(in) != 3 {
		t.Errorf("in the upper layer: %q", in)
	}
}

// Signatures and realisations of what only a lower has are kept in the upper.
func TestSignaturesAndRealisationsOverLowers(t *testing.T) {
	if !isolated(t) {
		return
	}
	testenv.Overlay(t)
	chain := storetest.Chain(t, storepath.DefaultDir, 3)
	w := newWorld(t, 1, func(_ int, s *local.Store) { addTo(t, s, chain...) })
	o := w.options()
	o.Upper.CADerivations = true
	s, err := overlay.Open(t.Context(), o, w.openLowers(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.AddSignatures(t.Context(), chain[2].Path(), []store.Signature{"a:AAAA"}); err != nil {
		t.Fatal(err)
	}
	info, err := store.PathInfoOf(t.Context(), s, chain[2].Path())
	if err != nil || len(info.Signatures) != 1 {
		t.Errorf("%+v, %v", info, err)
	}
	id := store.DrvOutput{DrvHash: nixhash.Of(nixhash.SHA256, "drv"), Output: "out"}
	if err := s.RegisterRealisations(t.Context(), []*store.Realisation{{ID: id, OutPath: chain[1].Path()}}); err != nil {
		t.Fatal(err)
	}
	rs, err := s.Realisations(t.Context(), []store.DrvOutput{id})
	if err != nil || rs[0] == nil || rs[0].OutPath != chain[1].Path() {
		t.Errorf("%+v, %v", rs, err)
	}
	lower := w.lower(t, filepath.Join(w.dir, "lower0"), true)
	defer lower.Close()
	if info, err := store.PathInfoOf(t.Context(), lower, chain[2].Path()); err != nil || len(info.Signatures) > 0 {
		t.Errorf("the lower: %+v, %v", info, err)
	}
	if in := objects(t, w.upper()); len(in) > 0 {
		t.Errorf("in the upper layer: %q", in)
	}
}
