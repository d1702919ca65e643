package execute

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/memstore"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// world is a store with an input, and something that is none of the builder's
// business. It builds whatever it is asked for, which gives a path that refers to
// another.
type world struct {
	*memstore.Store
	input, other, built, lib *store.PathInfo
	shown                    []storepath.Path
	r                        *restricted
}

func (w *world) BuildPaths(_ context.Context, targets []derivation.DerivedPath, _ store.BuildMode) ([]*store.BuildResult, error) {
	results := make([]*store.BuildResult, len(targets))
	for i, t := range targets {
		id := store.DrvOutput{DrvHash: nixhash.Of(nixhash.SHA256, t.String()), Output: "out"}
		results[i] = &store.BuildResult{Path: t, Status: store.Built, Outputs: map[string]*store.Realisation{"out": {ID: id, OutPath: w.built.Path}}}
	}
	return results, nil
}

func (w *world) QueryMissing(_ context.Context, targets []derivation.DerivedPath) (*store.Missing, error) {
	m := &store.Missing{}
	for _, t := range targets {
		m.WillBuild = append(m.WillBuild, t.Path)
	}
	return m, nil
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Store: memstore.New(storepath.DefaultDir)}
	add := func(name string, refs ...storepath.Path) *store.PathInfo {
		o := storetest.File(t, w.Dir(), name, name, refs...)
		o.Info.Signatures, o.Info.Ultimate = []store.Signature{"a:b"}, true
		if err := w.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
			t.Fatal(err)
		}
		return o.Info
	}
	w.input, w.other, w.lib = add("input"), add("other"), add("lib")
	w.built = add("built", w.lib.Path)
	w.r = newRestricted(w, &Job{Inputs: []*store.PathInfo{w.input}}, func(_ context.Context, p storepath.Path) error {
		w.shown = append(w.shown, p)
		return nil
	})
	return w
}

func target(p storepath.Path) []derivation.DerivedPath {
	return []derivation.DerivedPath{{Path: p, Outputs: []string{"out"}}}
}

func TestBuildersSeeTheirInputsOnly(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	both := []storepath.Path{w.other.Path, w.input.Path}
	if valid, err := w.r.ValidPaths(ctx, both); err != nil || !slices.Equal(valid, both[1:]) {
		t.Errorf("valid: %v, %v", valid, err)
	}
	infos, err := w.r.PathInfos(ctx, both)
	if err != nil || infos[0] != nil || infos[1] == nil {
		t.Fatalf("infos: %v, %v", infos, err)
	}
	if i := infos[1]; i.Ultimate || i.Registered != 0 || len(i.Signatures) > 0 || !i.Deriver.IsZero() || i.NarHash != w.input.NarHash {
		t.Errorf("%+v", i)
	}
	var all []storepath.Path
	for p, err := range w.r.AllPaths(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if !slices.Equal(all, both[1:]) {
		t.Errorf("all: %v", all)
	}
	if err := w.r.NarFromPath(ctx, w.input.Path, &bytes.Buffer{}); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"dump":    w.r.NarFromPath(ctx, w.other.Path, &bytes.Buffer{}),
		"ensure":  w.r.EnsurePath(ctx, w.other.Path),
		"outputs": second(w.r.DerivationOutputs(ctx, w.other.Path)),
		"build":   second(w.r.BuildPaths(ctx, target(w.other.Path), store.BuildNormal)),
	} {
		if !errors.Is(err, store.ErrNotValid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(w.shown) > 0 {
		t.Errorf("shown: %v", w.shown)
	}
}

func second[T any](_ T, err error) error { return err }

func TestWhatBuildersAddIsTheirs(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	dump := func(refs ...storepath.Path) (*store.PathInfo, error) {
		return w.r.AddDump(ctx, store.Dump{
			Name: "new", Spec: storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256},
			References: refs, Contents: strings.NewReader("new"),
		}, store.AddOptions{})
	}
	if _, err := dump(w.other.Path); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("a reference to what the builder does not know: %v", err)
	}
	info, err := dump(w.input.Path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dump(w.input.Path); err != nil {
		t.Errorf("once more: %v", err)
	}
	if !w.r.allowed(info.Path) || !slices.Equal(w.shown, []storepath.Path{info.Path}) || !slices.Equal(w.r.Added(), w.shown) {
		t.Errorf("shown %v, added %v", w.shown, w.r.Added())
	}
	if _, err := dump(info.Path); err != nil {
		t.Errorf("a reference to what was added: %v", err)
	}
}

func TestWhatBuildersBuildComesWithItsClosure(t *testing.T) {
	w := newWorld(t)
	if _, err := w.r.BuildPaths(t.Context(), target(w.input.Path), store.BuildCheck); err == nil {
		t.Error("the mode check was taken")
	}
	results, err := w.r.BuildPaths(t.Context(), target(w.input.Path), store.BuildNormal)
	if err != nil || len(results) != 1 {
		t.Fatalf("%v, %v", results, err)
	}
	if !w.r.allowed(w.built.Path) || !w.r.allowed(w.lib.Path) || w.r.allowed(w.other.Path) {
		t.Errorf("added: %v", w.r.Added())
	}
	m, err := w.r.QueryMissing(t.Context(), append(target(w.input.Path), target(w.other.Path)...))
	if err != nil || !slices.Equal(m.WillBuild, []storepath.Path{w.input.Path}) || !slices.Equal(m.Unknown, []storepath.Path{w.other.Path}) {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestBuildersAreNotTrusted(t *testing.T) {
	w := newWorld(t)
	if trust, err := w.r.Trust(t.Context()); err != nil || trust != store.NotTrusted {
		t.Errorf("%v, %v", trust, err)
	}
	// The store below must not be found through the wrapper.
	for name, found := range map[string]bool{
		"Collector": can[store.Collector](w.r), "Registrar": can[store.Registrar](w.r), "LogAdder": can[store.LogAdder](w.r),
		"SignatureAdder": can[store.SignatureAdder](w.r), "RealisationRegistrar": can[store.RealisationRegistrar](w.r),
		"DerivationBuilder": can[store.DerivationBuilder](w.r), "HashPartQuerier": can[store.HashPartQuerier](w.r),
		"DeriverQuerier": can[store.DeriverQuerier](w.r), "Overridable": can[store.Overridable](w.r),
	} {
		if found {
			t.Errorf("a builder has the ability %s", name)
		}
	}
}

func can[T any](s store.Store) bool {
	_, ok := store.As[T](s)
	return ok
}
