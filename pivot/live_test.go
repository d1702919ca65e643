package pivot_test

import (
	"os"
	"slices"
	"testing"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/pivot"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// realisedText is a content-addressed derivation: what it makes only a realisation can tell.
var realisedText = `Derive([("out","","r:sha256","")],[],[],"x86_64-linux","/bin/sh",["-c","true"],[("name","d"),("out","` + derivation.OutputPlaceholder("out") + `")])`

// realise registers what realisedText made.
func (w *world) realise(made storepath.Path) {
	w.t.Helper()
	drv, err := derivation.Parse(dir, "d", []byte(realisedText))
	if err != nil {
		w.t.Fatal(err)
	}
	m, err := derivation.NewHasher(dir, nil).Modulo(w.t.Context(), drv)
	if err != nil {
		w.t.Fatal(err)
	}
	db, err := nixdb.Open(w.t.Context(), w.path("state/db"), nixdb.Options{Dir: dir, Realisations: true})
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	r := &store.Realisation{ID: store.DrvOutput{DrvHash: m.Hashes["out"], Output: "out"}, OutPath: made}
	if err := db.RegisterRealisations(w.t.Context(), []*store.Realisation{r}); err != nil {
		w.t.Fatal(err)
	}
}

// liveWorld has a rooted derivation, what it made according to a realisation, and what is dead.
// Everything leans on the old lower, so that what is dead goes.
type liveWorld struct {
	*world
	drv, made, dead storetest.Object
}

func newLiveWorld(t *testing.T) *liveWorld {
	w := &liveWorld{world: newWorld(t)}
	var below []storetest.Object
	leaning := func(name string) []storetest.Object {
		o := file(t, "below-"+name)
		below = append(below, o)
		return []storetest.Object{o}
	}
	w.drv = storetest.File(t, dir, "d.drv", realisedText, paths(leaning("drv"))...)
	w.made, w.dead = file(t, "d", leaning("d")...), file(t, "dead", leaning("dead")...)
	w.lower("old", below...)
	w.lower("new")
	w.rows(below...)
	w.own(w.drv, w.made, w.dead)
	w.root("drv", w.drv.Path())
	w.realise(w.made.Path())
	return w
}

// collected is what a collection of garbage would delete.
func (w *liveWorld) collected(o local.Options) []string {
	w.t.Helper()
	o.Real, o.State, o.Dir = w.path("layer"), w.path("state"), dir
	s, err := local.Open(w.t.Context(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	res, err := s.CollectGarbage(w.t.Context(), store.GCOptions{Action: store.ReturnDead, MaxFreed: store.NoLimit})
	if err != nil {
		w.t.Fatal(err)
	}
	return res.Paths
}

func objects(list []storepath.Path) (out []pivot.Object) {
	for _, p := range list {
		out = append(out, pivot.Object{Path: p})
	}
	return out
}

func printed(list []pivot.Object) (out []string) {
	for _, o := range list {
		out = append(out, dir.Print(o.Path))
	}
	return out
}

// What is live to a pivot is what is live to a collection of garbage, also by way of realisations.
func TestLivenessIsThatOfCollections(t *testing.T) {
	for name, c := range map[string]struct {
		outputs, ca, damaged bool
		dead                 func(w *liveWorld) []storepath.Path
	}{
		"keep-outputs":                    {outputs: true, ca: true, dead: func(w *liveWorld) []storepath.Path { return []storepath.Path{w.dead.Path()} }},
		"a derivation that is damaged":    {outputs: true, ca: true, damaged: true, dead: func(w *liveWorld) []storepath.Path { return []storepath.Path{w.dead.Path()} }},
		"without keep-outputs":            {ca: true, dead: func(w *liveWorld) []storepath.Path { return []storepath.Path{w.dead.Path(), w.made.Path()} }},
		"realisations mean nothing to it": {outputs: true, dead: func(w *liveWorld) []storepath.Path { return []storepath.Path{w.dead.Path(), w.made.Path()} }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newLiveWorld(t)
			if c.damaged {
				if err := os.Chmod(w.inLayer(w.drv), 0o644); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(w.inLayer(w.drv), []byte("nothing"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			parts := w.parts(w.openLowers("old"), w.openLowers("new"))
			parts.KeepOutputs, parts.CADerivations = c.outputs, c.ca
			p := mustPlan(t, parts, pivot.Options{OnlyLive: true})
			var want []string
			for _, path := range storepath.SortUnique(c.dead(w)) {
				want = append(want, dir.Print(path))
			}
			if got := printed(p.Removed); !slices.Equal(got, want) {
				t.Errorf("removed are %q, want %q", got, want)
			}
			want = append(want, printed(objects(p.Dropped))...) // of the old lower, as nothing needs them
			slices.Sort(want)
			if got := w.collected(local.Options{KeepOutputs: c.outputs, CADerivations: c.ca}); !slices.Equal(got, want) {
				t.Errorf("a collection would delete %q, want %q", got, want)
			}
		})
	}
}

// A derivation that only the old lower has is read there.
func TestRealisedByADerivationOfALower(t *testing.T) {
	w := newWorld(t)
	drv, made := storetest.File(t, dir, "d.drv", realisedText), file(t, "d")
	w.lower("old", drv, made)
	w.lower("new")
	w.rows(drv, made)
	w.realise(made.Path())
	w.root("drv", drv.Path())
	parts := w.parts(w.openLowers("old"), w.openLowers("new"))
	parts.KeepOutputs, parts.CADerivations = true, true
	if p := mustPlan(t, parts, pivot.Options{OnlyLive: true}); len(p.Copies) != 2 || len(p.Dropped) != 0 {
		t.Errorf("%d copies, %d rows dropped", len(p.Copies), len(p.Dropped))
	}
}

// With keep-derivations what is live keeps its deriver, as far as the old lower has it.
func TestOnlyLiveKeepsDerivers(t *testing.T) {
	for _, keep := range []bool{false, true} {
		w := newWorld(t)
		drv, tool := storetest.File(t, dir, "tool.drv", realisedText), file(t, "tool")
		tool.Info.Deriver = drv.Path()
		w.lower("old", drv)
		w.lower("new")
		w.rows(drv)
		w.own(tool)
		w.root("tool", tool.Path())
		parts := w.parts(w.openLowers("old"), w.openLowers("new"))
		parts.KeepDerivations = keep
		p := mustPlan(t, parts, pivot.Options{OnlyLive: true})
		if got := len(p.Copies) == 1; got != keep || len(p.Dropped) != 1-len(p.Copies) {
			t.Errorf("keep-derivations %t: %d copies, %d rows dropped", keep, len(p.Copies), len(p.Dropped))
		}
	}
}
