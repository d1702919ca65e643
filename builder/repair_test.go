package builder_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// damage changes the object of a path.
func (w *world) damage(p storepath.Path) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.s.RealDir(), p.Base()), []byte("damaged"), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) intact(p storepath.Path) bool {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.s.RealDir(), p.Base()))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text) != "damaged"
}

func (w *world) repair(targets ...derivation.DerivedPath) ([]*store.BuildResult, error) {
	return w.b.BuildPaths(w.t.Context(), w.v, targets, store.BuildRepair)
}

func TestRepair(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	b := w.add(drv{name: "b", inputs: []storepath.Path{a}})
	w.mustBuild(wants(b))
	w.began()

	results, err := w.repair(wants(b))
	if err != nil || results[0].Status != store.AlreadyValid {
		t.Errorf("%+v, %v", results, err)
	}
	w.expect()

	w.damage(w.out(b))
	results, err = w.repair(wants(b))
	if err != nil || results[0].Status != store.Built || !w.intact(w.out(b)) {
		t.Errorf("%+v, %v", results, err)
	}
	w.expect("b")

	// What it refers to is looked at as well.
	w.damage(w.out(a))
	results, err = w.repair(wants(b))
	if err != nil || results[0].Status != store.AlreadyValid || !w.intact(w.out(a)) {
		t.Errorf("%+v, %v", results, err)
	}
	w.expect("a")

	// A substituter is quicker.
	w.damage(w.out(b))
	cache := w.cache()
	cache.has.Add(w.out(b))
	results, err = w.repair(wants(b))
	if err != nil || !results[0].Status.OK() || !w.intact(w.out(b)) || len(cache.repaired) != 1 {
		t.Errorf("%+v, %v", results, err)
	}
	w.expect()

	w.damage(w.out(b))
	results, err = w.repair(derivation.DerivedPath{Path: w.out(b)})
	if err != nil || !results[0].Status.OK() || !w.intact(w.out(b)) {
		t.Errorf("%+v, %v", results, err)
	}
}

func TestRepairOfWhatNobodyMakes(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	w.mustBuild(wants(a))
	w.damage(w.out(a))
	results, err := w.repair(derivation.DerivedPath{Path: w.out(a)})
	if err != nil || results[0].Status != store.NoSubstituters {
		t.Errorf("%+v, %v", results, err)
	}
}
