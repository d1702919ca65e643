package substitute_test

import (
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/substitute"
	"github.com/strata-nix/strata/trust"
)

func TestSubstituteRealisations(t *testing.T) {
	key, err := trust.GenerateKey("k-1")
	if err != nil {
		t.Fatal(err)
	}
	id := func(s string) store.DrvOutput {
		return store.DrvOutput{DrvHash: nixhash.Of(nixhash.SHA256, s), Output: "out"}
	}
	realise := func(s string, o storetest.Object, sign bool) *store.Realisation {
		r := &store.Realisation{ID: id(s), OutPath: o.Path()}
		if sign {
			if err := trust.SignRealisation(r, key); err != nil {
				t.Fatal(err)
			}
		}
		return r
	}
	chain := storetest.Chain(t, dir, 2)
	local0, lost := storetest.File(t, dir, "here", "here"), storetest.File(t, dir, "lost", "lost")
	c := newCache(chain...)
	c.realisations = map[store.DrvOutput]*store.Realisation{
		id("good"):     realise("good", chain[1], true),
		id("unsigned"): realise("unsigned", chain[1], false),
		id("lie"):      realise("good", chain[1], true),
		id("lost"):     realise("lost", lost, true),
		id("here"):     realise("here", lost, true),
	}
	w := newWorld(t, local.Options{CADerivations: true, RequireSigs: true, TrustedKeys: trust.Keys{}.WithSecret(key)}, c)
	if err := w.dest.Add(t.Context(), local0.Info, local0.Reader(), store.AddOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.dest.RegisterRealisations(t.Context(), []*store.Realisation{realise("here", local0, false)}); err != nil {
		t.Fatal(err)
	}
	ids := []store.DrvOutput{id("good"), id("unsigned"), id("lie"), id("lost"), id("here"), id("nobody")}
	r := newRecord()
	results, rs, err := w.engine().SubstituteRealisations(activity.With(t.Context(), r), ids, substitute.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []store.BuildStatus{store.Substituted, store.NoSubstituters, store.NoSubstituters, store.NoSubstituters, store.AlreadyValid, store.NoSubstituters}
	for i, got := range results {
		if got.Status != want[i] || (rs[i] != nil) != got.Status.OK() || (got.Err == nil) != got.Status.OK() {
			t.Errorf("%d: %+v, %v", i, got, rs[i])
		}
	}
	w.has(chain[1])
	known, err := w.dest.Realisations(t.Context(), ids)
	if err != nil || known[0] == nil || known[0].OutPath != chain[1].Path() || known[1] != nil || known[3] != nil || known[4].OutPath != local0.Path() {
		t.Errorf("registered: %+v, %v", known, err)
	}
	if r.said("as it's not signed") != 1 || r.said("but got that of") != 1 {
		t.Errorf("%q", r.lines)
	}
}
