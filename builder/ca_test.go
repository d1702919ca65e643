package builder_test

import (
	"strings"
	"testing"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// using gives the variables of a derivation that uses the output "out" of another
// whose path is not known.
func using(t *testing.T, drv storepath.Path) map[string]string {
	t.Helper()
	p, err := derivation.UnknownOutput(drv, "out")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"uses": p.String() + "/bin/x"}
}

func TestContentAddressedIsCutOffEarly(t *testing.T) {
	w := newWorld(t, "ca-derivations")
	same := map[string]string{"contents": "the same"}
	a1 := w.add(drv{name: "a", kind: derivation.Floating, env: same})
	a2 := w.add(drv{name: "a", kind: derivation.Floating, env: map[string]string{"contents": "the same", "comment": "changed"}})
	b1 := w.add(drv{name: "b", kind: derivation.Floating, inputs: []storepath.Path{a1}, env: using(t, a1)})
	b2 := w.add(drv{name: "b", kind: derivation.Floating, inputs: []storepath.Path{a2}, env: using(t, a2)})
	deferred := w.add(drv{name: "c", inputs: []storepath.Path{b2}, env: using(t, b2)})

	first := w.mustBuild(wants(b1))[0]
	w.expect("a", "b")
	if first.Status != store.Built {
		t.Errorf("%+v", first)
	}
	second := w.mustBuild(wants(b2))[0]
	w.expect("a")
	if second.Status != store.ResolvesToAlreadyValid || second.Outputs["out"].OutPath != first.Outputs["out"].OutPath ||
		second.Outputs["out"].ID == first.Outputs["out"].ID {
		t.Errorf("%+v, and then %+v", first.Outputs["out"], second.Outputs["out"])
	}
	third := w.mustBuild(wants(deferred))[0]
	w.expect("c")
	if p := third.Outputs["out"].OutPath; p.Name() != "c" || third.Status != store.Built {
		t.Errorf("%+v", third)
	}
	again := w.mustBuild(wants(b2), wants(deferred), wants(b1))
	w.expect()
	for _, r := range again {
		if r.Status != store.AlreadyValid {
			t.Errorf("%+v", r)
		}
	}
	// What was resolved is in the store, as a record of what was built.
	all := 0
	for p, err := range w.s.AllPaths(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if p.Name() == "b.drv" {
			all++
			d, err := w.s.Derivation(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			if len(d.InputDrvs) == 0 && !strings.HasPrefix(d.Env["uses"], "/nix/store/") {
				t.Errorf("%s uses %s", p, d.Env["uses"])
			}
		}
	}
	if all != 3 {
		t.Errorf("%d derivations of b instead of two and what they both resolve to", all)
	}
}

func TestResolvedDerivationFails(t *testing.T) {
	w := newWorld(t, "ca-derivations")
	a := w.add(drv{name: "a", kind: derivation.Floating})
	b := w.add(drv{name: "b", kind: derivation.Floating, inputs: []storepath.Path{a}, env: using(t, a)})
	w.failing("b")
	results, err := w.build(wants(b))
	if err != nil || results[0].Status != store.DependencyFailed || results[0].ExitStatus != 100 ||
		!strings.HasPrefix(results[0].Message, "build of resolved derivation '/nix/store/") {
		t.Errorf("%+v, %v", results[0], err)
	}
}

func TestFixedOutputsAreResolvedToo(t *testing.T) {
	w := newWorld(t, "ca-derivations")
	a := w.add(drv{name: "a"})
	b := w.add(drv{name: "b", kind: derivation.Fixed, inputs: []storepath.Path{a}})
	if r := w.mustBuild(wants(b))[0]; r.Status != store.Built {
		t.Errorf("%+v", r)
	}
	w.expect("a", "b")
}

func TestImpureDerivationsAreAlwaysBuilt(t *testing.T) {
	w := newWorld(t, "ca-derivations", "impure-derivations")
	a := w.add(drv{name: "a", kind: derivation.Impure, env: map[string]string{"contents": "1"}})
	b := w.add(drv{name: "b", kind: derivation.Impure, inputs: []storepath.Path{a}, env: using(t, a)})
	pure := w.add(drv{name: "pure", kind: derivation.Floating, inputs: []storepath.Path{a}, env: using(t, a)})
	for range 2 {
		w.mustBuild(wants(b), wants(a))
		w.expect("a", "b")
	}
	if _, err := w.build(wants(pure)); err == nil || !strings.Contains(err.Error(), "pure derivation '") ||
		!strings.Contains(err.Error(), "depends on impure derivation '") {
		t.Errorf("%v", err)
	}
}

func TestDynamicDerivations(t *testing.T) {
	w := newWorld(t, "ca-derivations", "dynamic-derivations")
	inner := w.add(drv{name: "inner"})
	text, err := w.s.Derivation(t.Context(), inner)
	if err != nil {
		t.Fatal(err)
	}
	aterm, err := text.ATerm(w.s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	// The fake executor writes what "contents" says.
	outer := w.add(drv{
		name: "inner.drv", kind: derivation.Floating, env: map[string]string{"contents": string(aterm)},
		edit: func(d *derivation.Derivation) {
			d.Outputs["out"] = derivation.Output{Kind: derivation.Floating, Spec: storepath.Spec{Method: storepath.Text, Algorithm: d.Outputs["out"].Spec.Algorithm}}
		},
	})
	user := w.add(drv{name: "user", kind: derivation.Floating, nodes: map[storepath.Path]derivation.InputNode{
		outer: {Dynamic: map[string]derivation.InputNode{"out": {Outputs: []string{"out"}}}},
	}})
	target := derivation.DerivedPath{Path: outer, Through: []string{"out"}, Outputs: []string{"out"}}
	r := w.mustBuild(target)[0]
	w.expect("inner.drv", "inner")
	if r.Outputs["out"].OutPath != text.Outputs["out"].Path {
		t.Errorf("%+v", r)
	}
	w.mustBuild(wants(user))
	w.expect("user")
	w.failing("inner")
	failing := w.add(drv{name: "bad.drv", kind: derivation.Floating, env: map[string]string{"contents": "no derivation"}})
	target.Path = failing
	if r, err := w.build(target); err == nil {
		t.Errorf("what is no derivation: %+v", r[0])
	}
	if m, err := w.b.QueryMissing(t.Context(), w.v, target1(outer)); err != nil || len(m.WillBuild)+len(m.Unknown) > 0 {
		t.Errorf("%+v, %v", m, err)
	}
}

func target1(outer storepath.Path) []derivation.DerivedPath {
	return []derivation.DerivedPath{{Path: outer, Through: []string{"out"}, Outputs: []string{"out"}}}
}
