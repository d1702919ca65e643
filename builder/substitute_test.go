package builder_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
)

// cache is a substituter that has some paths.
type cache struct {
	w      *world
	has    storepath.Set
	broken storepath.Set // it has them, and gives none
	reals  map[store.DrvOutput]storepath.Path

	gate     chan struct{} // nil, or what objects wait for
	calls    int
	repaired []storepath.Path
}

func (w *world) cache() *cache {
	c := &cache{w: w, has: storepath.Set{}, broken: storepath.Set{}, reals: map[store.DrvOutput]storepath.Path{}}
	w.v.Substituter = c
	return c
}

func (c *cache) Plan(ctx context.Context, wanted []substitute.Wanted) (*substitute.Plan, error) {
	p := &substitute.Plan{}
	for _, want := range wanted {
		if c.has.Has(want.Path) || c.broken.Has(want.Path) {
			p.Infos = append(p.Infos, &store.PathInfo{Path: want.Path})
			p.DownloadSize, p.NarSize = p.DownloadSize+10, p.NarSize+100
		} else {
			p.Unknown = append(p.Unknown, want.Path)
		}
	}
	return p, ctx.Err()
}

func (c *cache) Substitutables(ctx context.Context, wanted []substitute.Wanted) ([]*store.Substitutable, error) {
	out := make([]*store.Substitutable, len(wanted))
	for i, want := range wanted {
		if c.has.Has(want.Path) || c.broken.Has(want.Path) {
			out[i] = &store.Substitutable{Path: want.Path}
		}
	}
	return out, ctx.Err()
}

func (c *cache) Substitute(ctx context.Context, wanted []substitute.Wanted, o substitute.Options) ([]substitute.Result, error) {
	c.calls++
	out := make([]substitute.Result, len(wanted))
	for _, want := range wanted {
		if !c.has.Has(want.Path) && !c.broken.Has(want.Path) {
			o.Early(substitute.Result{Path: want.Path, Status: store.NoSubstituters})
		}
	}
	if c.gate != nil {
		<-c.gate
	}
	for i, want := range wanted {
		out[i] = c.get(ctx, want.Path)
		if o.Repair && out[i].Status.OK() {
			c.repaired = append(c.repaired, want.Path)
		}
	}
	return out, ctx.Err()
}

func (c *cache) get(ctx context.Context, p storepath.Path) substitute.Result {
	switch {
	case c.broken.Has(p):
		return substitute.Result{Path: p, Status: store.NoSubstituters, Failed: true, Err: errors.New("the cache is on fire")}
	case !c.has.Has(p):
		return substitute.Result{Path: p, Status: store.NoSubstituters}
	}
	job := &execute.Job{Drv: &derivation.Basic{Name: p.Name()}}
	if _, err := c.w.make(ctx, job, "out", derivation.Output{Kind: derivation.InputAddressed, Path: p}); err != nil {
		return substitute.Result{Path: p, Status: store.NoSubstituters, Failed: true, Err: err}
	}
	return substitute.Result{Path: p, Status: store.Substituted}
}

func (c *cache) Realisations(ctx context.Context, ids []store.DrvOutput) ([]*store.Realisation, error) {
	out := make([]*store.Realisation, len(ids))
	for i, id := range ids {
		if p, ok := c.reals[id]; ok {
			out[i] = &store.Realisation{ID: id, OutPath: p}
		}
	}
	return out, ctx.Err()
}

func (c *cache) SubstituteRealisations(ctx context.Context, ids []store.DrvOutput, _ substitute.Options) ([]substitute.Result, []*store.Realisation, error) {
	reals, err := c.Realisations(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	results := make([]substitute.Result, len(ids))
	for i, real := range reals {
		results[i].Status = store.NoSubstituters
		if real == nil {
			continue
		}
		if results[i] = c.get(ctx, real.OutPath); results[i].Status.OK() {
			if err := c.w.s.RegisterRealisations(ctx, reals[i:i+1]); err != nil {
				return nil, nil, err
			}
		}
	}
	return results, reals, nil
}

// out is the path of the output of an input-addressed derivation.
func (w *world) out(drv storepath.Path) storepath.Path {
	w.t.Helper()
	d, err := w.s.Derivation(w.t.Context(), drv)
	if err != nil {
		w.t.Fatal(err)
	}
	return d.Outputs["out"].Path
}

func TestSubstitutesComeBeforeBuilds(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	b := w.add(drv{name: "b", inputs: []storepath.Path{a}})
	c := w.add(drv{name: "c", inputs: []storepath.Path{b}})
	local := w.add(drv{name: "local", env: map[string]string{"allowSubstitutes": ""}})
	cache := w.cache()
	cache.has = storepath.NewSet(w.out(b), w.out(local))
	results := w.mustBuild(wants(c), wants(b), wants(local))
	began := w.began()
	slices.Sort(began)
	if !slices.Equal(began, []string{"c", "local"}) {
		t.Errorf("built %q", began)
	}
	if results[0].Status != store.Built || results[1].Status != store.Substituted || results[2].Status != store.Built {
		t.Errorf("%+v", results)
	}
	w.v.Options.AlwaysAllowSubstitutes = true
	other := w.add(drv{name: "other", env: map[string]string{"allowSubstitutes": ""}})
	cache.has.Add(w.out(other))
	if r := w.mustBuild(wants(other))[0]; r.Status != store.Substituted {
		t.Errorf("%+v", r)
	}
}

func TestSubstitutersAreAskedBySets(t *testing.T) {
	w := newWorld(t)
	var inputs []storepath.Path
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		inputs = append(inputs, w.add(drv{name: name}))
	}
	top := w.add(drv{name: "top", inputs: inputs})
	cache := w.cache()
	w.mustBuild(wants(top))
	if cache.calls != 2 {
		t.Errorf("%d calls for two levels", cache.calls)
	}
}

// What nobody has is built while other things are on their way.
func TestBuildsDoNotWaitForDownloads(t *testing.T) {
	w := newWorld(t)
	a, b := w.add(drv{name: "a"}), w.add(drv{name: "b"})
	cache := w.cache()
	cache.has.Add(w.out(a))
	cache.gate = make(chan struct{})
	w.run = func(context.Context, *execute.Job) (*store.BuildResult, error) {
		close(cache.gate)
		return nil, nil
	}
	results := w.mustBuild(wants(a), wants(b))
	w.expect("b")
	if results[0].Status != store.Substituted || results[1].Status != store.Built {
		t.Errorf("%+v", results)
	}
}

func TestFallback(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	b := w.add(drv{name: "b", inputs: []storepath.Path{a}})
	w.cache().broken.Add(w.out(a))
	results, err := w.build(wants(b))
	if err != nil || results[0].Status != store.DependencyFailed {
		t.Errorf("%+v, %v", results[0], err)
	}
	results, err = w.build(wants(a))
	if err != nil || results[0].Status != store.TransientFailure || results[0].ExitStatus != 1 ||
		!strings.HasPrefix(results[0].Message, "some substitutes for the outputs of derivation '/nix/store/") {
		t.Errorf("%+v, %v", results[0], err)
	}
	results, err = w.build(derivation.DerivedPath{Path: w.out(a)})
	if err != nil || results[0].Status != store.NoSubstituters || results[0].Message != "the cache is on fire" {
		t.Errorf("%+v, %v", results[0], err)
	}
	w.expect()
	w.v.Options.Fallback = true
	w.mustBuild(wants(b))
	w.expect("a", "b")
}

func TestDerivationsAndSourcesAreSubstituted(t *testing.T) {
	w := newWorld(t)
	src, _ := storepath.ParseBase("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-source")
	d := &derivation.Derivation{Basic: derivation.Basic{
		Name: "a", Platform: "x86_64-linux", Builder: "/bin/sh", InputSrcs: []storepath.Path{src},
		Outputs: map[string]derivation.Output{"out": {Kind: derivation.Fixed, CA: storepath.ContentAddress{
			Method: storepath.Flat, Hash: nixhash.Of(nixhash.SHA256, "contents"),
		}}},
		Env: map[string]string{"contents": "contents"},
	}}
	p, err := d.StorePath(w.s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.b.BuildDerivation(t.Context(), w.v, p, &d.Basic, store.BuildNormal)
	if err != nil || r.Status != store.MiscFailure || !strings.Contains(r.Message, "does not exist, and substitution is disabled") {
		t.Errorf("a source that there is not: %+v, %v", r, err)
	}
	cache := w.cache()
	r, err = w.b.BuildDerivation(t.Context(), w.v, p, &d.Basic, store.BuildNormal)
	if err != nil || r.Status != store.DependencyFailed || !strings.Contains(r.Message, "Reason: 1 dependency failed.") {
		t.Errorf("a source that is not to be had: %+v, %v", r, err)
	}
	cache.has.Add(src)
	r, err = w.b.BuildDerivation(t.Context(), w.v, p, &d.Basic, store.BuildNormal)
	if err != nil || r.Status != store.Built {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestRealisationsAreSubstituted(t *testing.T) {
	w := newWorld(t, "ca-derivations")
	a := w.add(drv{name: "a", kind: derivation.Floating})
	b := w.add(drv{name: "b", kind: derivation.Floating, inputs: []storepath.Path{a}, env: using(t, a)})
	d, err := w.s.Derivation(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	m, err := derivation.NewHasher(w.s.Dir(), w.s.Derivation).Modulo(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	made, _ := storepath.ParseBase("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-a")
	cache := w.cache()
	cache.has.Add(made)
	cache.reals[store.DrvOutput{DrvHash: m.Hashes["out"], Output: "out"}] = made
	if m, err := w.b.QueryMissing(t.Context(), w.v, []derivation.DerivedPath{wants(b)}); err != nil ||
		!slices.Equal(m.WillBuild, []storepath.Path{b}) || !slices.Equal(m.WillSubstitute, []storepath.Path{made}) {
		t.Errorf("%+v, %v", m, err)
	}
	results := w.mustBuild(wants(b), wants(a))
	w.expect("b")
	if results[1].Status != store.Substituted || results[1].Outputs["out"].OutPath != made {
		t.Errorf("%+v", results[1])
	}
}

func TestQueryMissingPlansSubstitution(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	b := w.add(drv{name: "b", inputs: []storepath.Path{a}})
	c := w.add(drv{name: "c", outputs: []string{"out", "dev"}, inputs: []storepath.Path{b}})
	w.cache().has = storepath.NewSet(w.out(b), w.out(c))
	for _, x := range []struct {
		target derivation.DerivedPath
		build  []storepath.Path
		fetch  []storepath.Path
	}{
		{wants(c), nil, []storepath.Path{w.out(c)}},
		{wants(c, "dev"), []storepath.Path{c}, []storepath.Path{w.out(b)}},
		{wants(c, "*"), []storepath.Path{c}, []storepath.Path{w.out(b)}},
		{derivation.DerivedPath{Path: w.out(b)}, nil, []storepath.Path{w.out(b)}},
		{wants(a), []storepath.Path{a}, nil},
	} {
		m, err := w.b.QueryMissing(t.Context(), w.v, []derivation.DerivedPath{x.target})
		if err != nil || !slices.Equal(m.WillBuild, x.build) || !slices.Equal(m.WillSubstitute, x.fetch) ||
			m.DownloadSize != uint64(10*len(x.fetch)) || len(m.Unknown) > 0 {
			t.Errorf("%v: %+v, %v", x.target, m, err)
		}
	}
}
