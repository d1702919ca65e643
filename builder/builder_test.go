package builder_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/builder"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

func open(t *testing.T) *local.Store {
	t.Helper()
	s, err := local.Open(t.Context(), local.Options{Root: testenv.Scratch(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// addDerivation adds a derivation that uses the outputs "out" of others.
func addDerivation(t *testing.T, s *local.Store, name string, inputs ...storepath.Path) (drv, out storepath.Path) {
	t.Helper()
	d := &derivation.Derivation{Basic: derivation.Basic{
		Name: name, Platform: "x86_64-linux", Builder: "/bin/sh",
		Outputs: map[string]derivation.Output{"out": {Kind: derivation.Deferred}},
		Env:     map[string]string{"name": name, "out": ""},
	}, InputDrvs: map[storepath.Path]derivation.InputNode{}}
	for _, in := range inputs {
		d.InputDrvs[in] = derivation.InputNode{Outputs: []string{"out"}}
	}
	if err := derivation.NewHasher(s.Dir(), s.Derivation).FillIn(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	text, err := d.ATerm(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.AddDump(t.Context(), store.Dump{
		Name: name + ".drv", Spec: storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256},
		References: d.References(), Contents: strings.NewReader(string(text)),
	}, store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return info.Path, d.Outputs["out"].Path
}

// realise makes an output valid.
func realise(t *testing.T, s *local.Store, p storepath.Path) {
	t.Helper()
	o := storetest.File(t, s.Dir(), p.Name(), "built")
	o.Info.Path, o.Info.CA = p, storepath.ContentAddress{}
	if err := s.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
		t.Fatal(err)
	}
}

func out(p storepath.Path) derivation.DerivedPath {
	return derivation.DerivedPath{Path: p, Outputs: []string{"out"}}
}

func TestQueryMissing(t *testing.T) {
	s := open(t)
	a, aOut := addDerivation(t, s, "a")
	b, bOut := addDerivation(t, s, "b", a)
	c, _ := addDerivation(t, s, "c", b, a)
	nobody, _ := storepath.ParseBase("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-nobody")
	check := func(targets []derivation.DerivedPath, build, unknown []storepath.Path) {
		t.Helper()
		m, err := builder.QueryMissing(t.Context(), s, targets)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(m.WillBuild, storepath.SortUnique(build)) || !slices.Equal(m.Unknown, unknown) || len(m.WillSubstitute) != 0 {
			t.Errorf("%v: %+v", targets, m)
		}
	}
	check(nil, nil, nil)
	check([]derivation.DerivedPath{{Path: a}}, nil, nil)
	check([]derivation.DerivedPath{{Path: nobody}, out(nobody)}, nil, []storepath.Path{nobody})
	check([]derivation.DerivedPath{out(c)}, []storepath.Path{a, b, c}, nil)
	check([]derivation.DerivedPath{{Path: c, Outputs: []string{derivation.AllOutputs}}}, []storepath.Path{a, b, c}, nil)
	realise(t, s, bOut)
	check([]derivation.DerivedPath{out(b)}, nil, nil)
	check([]derivation.DerivedPath{out(c)}, []storepath.Path{a, c}, nil)
	realise(t, s, aOut)
	check([]derivation.DerivedPath{out(c)}, []storepath.Path{c}, nil)
	if _, err := builder.QueryMissing(t.Context(), s, []derivation.DerivedPath{{Path: a, Outputs: []string{"doc"}}}); err == nil {
		t.Error("an output that there is not was planned")
	}
}

func TestBuildPathsAnswersForWhatIsValid(t *testing.T) {
	s := open(t)
	drv, o := addDerivation(t, s, "a")
	nobody, _ := storepath.ParseBase("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-nobody")
	build := func(mode store.BuildMode, targets ...derivation.DerivedPath) ([]*store.BuildResult, error) {
		return builder.BuildPaths(t.Context(), s, targets, mode)
	}
	if r, err := build(store.BuildNormal, out(drv)); !errors.Is(err, store.ErrUnsupported) {
		t.Errorf("what has to be built: %v, %v", r, err)
	}
	r, err := build(store.BuildNormal, derivation.DerivedPath{Path: drv}, derivation.DerivedPath{Path: nobody})
	if err != nil || r[0].Status != store.AlreadyValid || r[1].Status != store.NoSubstituters || r[1].Message == "" {
		t.Errorf("%+v, %v", r, err)
	}
	realise(t, s, o)
	r, err = build(store.BuildNormal, out(drv))
	if err != nil || r[0].Status != store.AlreadyValid || r[0].Outputs["out"].OutPath != o || r[0].Outputs["out"].ID.DrvHash.IsZero() {
		t.Errorf("%+v, %v", r, err)
	}
	for _, mode := range []store.BuildMode{store.BuildRepair, store.BuildCheck} {
		if _, err := build(mode, out(drv)); !errors.Is(err, store.ErrUnsupported) {
			t.Errorf("mode %d: %v", mode, err)
		}
	}
	if err := builder.EnsurePath(t.Context(), s, o); err != nil {
		t.Error(err)
	}
	if err := builder.EnsurePath(t.Context(), s, nobody); err == nil || !strings.Contains(err.Error(), s.Dir().Print(nobody)) {
		t.Errorf("ensuring what cannot be had: %v", err)
	}
}

// A wide and deep graph is asked level by level, not path by path.
func TestQueryMissingAsksBySets(t *testing.T) {
	s := open(t)
	var level []storepath.Path
	for depth := range 4 {
		var next []storepath.Path
		for i := range 5 {
			d, _ := addDerivation(t, s, fmt.Sprintf("d%d-%d", depth, i), level...)
			next = append(next, d)
		}
		level = next
	}
	counted := &counter{Store: s}
	m, err := builder.QueryMissing(t.Context(), counted, []derivation.DerivedPath{out(level[0])})
	if err != nil || len(m.WillBuild) != 16 {
		t.Fatalf("%+v, %v", m, err)
	}
	if counted.sets > 8 {
		t.Errorf("%d derivations were asked for in %d requests of several paths", len(m.WillBuild), counted.sets)
	}
}

// counter counts requests about more than one path.
type counter struct {
	*local.Store
	sets int
}

func (c *counter) ValidPaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	if len(paths) > 1 {
		c.sets++
	}
	return c.Store.ValidPaths(ctx, paths)
}
