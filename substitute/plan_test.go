package substitute_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
	"github.com/strata-nix/strata/trust"
)

func TestPlanAsksOncePerLevel(t *testing.T) {
	objects := storetest.Web(t, dir, 60)
	chain := storetest.Chain(t, dir, 5)
	first, second := newCache(objects[30:]...), newCache(append(objects[:40:40], chain...)...)
	w := newWorld(t, local.Options{}, first, second)
	for _, o := range objects[:10] {
		if err := w.dest.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	nobody := storetest.File(t, dir, "nobody", "x").Path()
	plan, err := w.engine().Plan(t.Context(), substitute.Opaque(objects[59].Path(), objects[58].Path(), chain[4].Path(), nobody, objects[3].Path()))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(plan.Unknown, []storepath.Path{nobody}) {
		t.Errorf("unknown: %v", plan.Unknown)
	}
	have := storepath.NewSet(pathsOf(objects[:10])...)
	var nar uint64
	for _, info := range plan.Infos {
		for _, r := range info.References {
			if !have.Has(r) {
				t.Errorf("%s comes before its reference %s", info.Path, r)
			}
		}
		if !have.Add(info.Path) {
			t.Errorf("%s is planned twice, or valid", info.Path)
		}
		nar += info.NarSize
	}
	if !have.Has(chain[0].Path()) || !have.Has(objects[58].Path()) || plan.NarSize != nar || plan.DownloadSize != uint64(10*len(plan.Infos)) {
		t.Errorf("%d paths, %d and %d bytes", len(plan.Infos), plan.DownloadSize, plan.NarSize)
	}
	asked := storepath.Set{}
	for _, paths := range first.queries {
		for _, p := range paths {
			if !asked.Add(p) {
				t.Errorf("the first source was asked twice for %s", p)
			}
		}
	}
	for _, paths := range second.queries {
		for _, p := range paths {
			if _, there := first.objects[p]; there {
				t.Errorf("the second source was asked for %s, which the first has", p)
			}
		}
	}
	// The web is as deep as it is long at most, and the chain adds nothing.
	if len(first.queries) > 50 || len(second.queries) > len(first.queries) {
		t.Errorf("%d and %d queries", len(first.queries), len(second.queries))
	}
	if first.opens()+second.opens() > 0 {
		t.Error("a plan fetched something")
	}
}

func TestPlanWhenSourcesFail(t *testing.T) {
	o := storetest.File(t, dir, "a", "a")
	down := errors.New("connection refused")
	for _, c := range []struct {
		name     string
		caches   func() []*cache
		fallback bool
		planned  int
		fails    bool
	}{
		{"the only one", func() []*cache { return []*cache{{dir: dir, refuse: down}} }, false, 0, true},
		{"the only one, with fallback", func() []*cache { return []*cache{{dir: dir, refuse: down}} }, true, 0, false},
		{"the first, and the second has it", func() []*cache { return []*cache{{dir: dir, refuse: down}, newCache(o)} }, false, 1, false},
		{"the first, and the second does not have it", func() []*cache { return []*cache{{dir: dir, refuse: down}, newCache()} }, false, 0, false},
		{"the last", func() []*cache { return []*cache{newCache(), {dir: dir, refuse: down}} }, false, 0, true},
		{"the last, and the first has it", func() []*cache { return []*cache{newCache(o), {dir: dir, refuse: down}} }, false, 1, false},
		{"for one path", func() []*cache {
			c := newCache(o)
			c.partial = map[storepath.Path]error{storetest.File(t, dir, "b", "b").Path(): down}
			return []*cache{c}
		}, false, 1, false},
		{"for this path", func() []*cache {
			c := newCache(o)
			c.partial = map[storepath.Path]error{o.Path(): down}
			return []*cache{c}
		}, false, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, local.Options{Fallback: c.fallback}, c.caches()...)
			plan, err := w.engine().Plan(t.Context(), substitute.Opaque(o.Path()))
			if c.fails {
				if !errors.Is(err, down) || !strings.Contains(err.Error(), "cache://") {
					t.Fatalf("%+v, %v", plan, err)
				}
			} else if err != nil || len(plan.Infos) != c.planned || len(plan.Unknown) != 1-c.planned {
				t.Fatalf("%+v, %v", plan, err)
			}
			known, err := w.engine().Substitutables(t.Context(), substitute.Opaque(o.Path()))
			if (err != nil) != c.fails || err == nil && (known[0] != nil) != (c.planned > 0) {
				t.Errorf("substitutable: %v, %v", known, err)
			}
		})
	}
}

// A source that fails is asked once, and told of once, however deep the closure is.
func TestBrokenSourceIsLeftAlone(t *testing.T) {
	chain := storetest.Chain(t, dir, 10)
	broken := &cache{dir: dir, refuse: errors.New("connection refused")}
	w := newWorld(t, local.Options{}, broken, newCache(chain...))
	r := newRecord()
	if got := w.substitute(activity.With(t.Context(), r), chain[9].Path()); got[0].Status != store.Substituted {
		t.Fatal(got)
	}
	if len(broken.queries) != 1 || r.said("connection refused") != 1 {
		t.Errorf("%d queries, %q", len(broken.queries), r.lines)
	}
}

func TestSignaturesArePlanned(t *testing.T) {
	key, err := trust.GenerateKey("k-1")
	if err != nil {
		t.Fatal(err)
	}
	keys := trust.Keys{}.WithSecret(key)
	plain := storetest.File(t, dir, "plain", "plain").Plain(t, dir, false)
	signed := storetest.Object{Info: plain.Info.Clone(), NAR: plain.NAR}
	if err := trust.Sign(signed.Info, dir, key); err != nil {
		t.Fatal(err)
	}
	forged := storetest.Object{Info: signed.Info.Clone(), NAR: plain.NAR}
	forged.Info.NarSize++
	addressed := storetest.File(t, dir, "addressed", "a")
	claimed := storetest.Object{Info: plain.Info.Clone(), NAR: plain.NAR}
	claimed.Info.CA = addressed.Info.CA
	for _, c := range []struct {
		name   string
		o      storetest.Object
		params string
		opts   local.Options
		taken  bool
	}{
		{"unsigned", plain, "", local.Options{RequireSigs: true, TrustedKeys: keys}, false},
		{"signed", signed, "", local.Options{RequireSigs: true, TrustedKeys: keys}, true},
		{"signed by a stranger", signed, "", local.Options{RequireSigs: true}, false},
		{"signature of something else", forged, "", local.Options{RequireSigs: true, TrustedKeys: keys}, false},
		{"content-addressed", addressed, "", local.Options{RequireSigs: true}, true},
		{"only says that it is content-addressed", claimed, "", local.Options{RequireSigs: true}, false},
		{"trusted source", plain, "?trusted=true", local.Options{RequireSigs: true}, true},
		{"signatures not required", plain, "", local.Options{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			source := newCache(c.o)
			w := newWorldOf(t, c.opts, []string{c.params}, source)
			r := newRecord()
			ctx := activity.With(t.Context(), r)
			plan, err := w.engine().Plan(ctx, substitute.Opaque(c.o.Path()))
			if err != nil || (len(plan.Infos) == 1) != c.taken || len(r.lines) > 0 {
				t.Errorf("planned: %+v, %v; %q", plan, err, r.lines)
			}
			got := w.substitute(ctx, c.o.Path())[0]
			if got.Status.OK() != c.taken || w.valid(c.o.Path()) == 1 != c.taken {
				t.Errorf("%+v", got)
			}
			if told := r.said("as it's not signed by any of the keys in 'trusted-public-keys'") == 1; told == c.taken || !c.taken && source.opens() > 0 {
				t.Errorf("opened %d times; %q", source.opens(), r.lines)
			}
		})
	}
}

// What is addressed by its contents and refers to nothing may come from a store
// with another directory.
func TestOtherStoreDirectory(t *testing.T) {
	here := storetest.File(t, dir, "source", "contents")
	there := storetest.File(t, "/other/store", "source", "contents")
	dep := storetest.File(t, "/other/store", "dep", "dep")
	thereDep := storetest.File(t, "/other/store", "deep", "contents", dep.Path())
	hereDep := storetest.File(t, dir, "deep", "contents", dep.Path())
	c := newCache(there, dep, thereDep)
	c.dir = "/other/store"
	w := newWorld(t, local.Options{RequireSigs: true}, c)
	wanted := []substitute.Wanted{{Path: here.Path(), CA: here.Info.CA}, {Path: hereDep.Path(), CA: hereDep.Info.CA}, {Path: there.Path()}}
	results, err := w.engine().Substitute(t.Context(), wanted, substitute.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if results[0].Status != store.Substituted || results[1].Status != store.NoSubstituters || results[2].Status != store.NoSubstituters {
		t.Fatalf("%+v", results)
	}
	w.has(here)
	info, err := store.PathInfoOf(t.Context(), w.dest, here.Path())
	if err != nil || info.CA != here.Info.CA {
		t.Errorf("%+v, %v", info, err)
	}
	if len(c.queries) != 1 || slices.Contains(c.queries[0], here.Path()) {
		t.Errorf("it was asked for %v", c.queries)
	}
}

func TestSubstitutablePaths(t *testing.T) {
	objects := storetest.Chain(t, dir, 4)
	many, few, down := newCache(objects[0], objects[1]), newCache(objects[2]), newCache()
	many.massQuery, down.massQuery, down.refuse = true, true, errors.New("down")
	w := newWorldOf(t, local.Options{}, []string{"", "", "?priority=-1"}, many, few, down)
	if err := w.dest.Add(t.Context(), objects[0].Info, objects[0].Reader(), store.AddOptions{}); err != nil {
		t.Fatal(err)
	}
	r := newRecord()
	got, err := w.dest.SubstitutablePaths(activity.With(t.Context(), r), pathsOf(objects))
	if err != nil || !slices.Equal(got, pathsOf(objects[:2])) {
		t.Errorf("%v, %v", got, err)
	}
	if r.said("down") != 1 {
		t.Errorf("%q", r.lines)
	}
	infos, err := w.dest.Substitutables(t.Context(), pathsOf(objects), make([]storepath.ContentAddress, 4))
	if !errors.Is(err, down.refuse) && err != nil {
		t.Errorf("%v, %v", infos, err)
	}
	off, err := w.dest.Override(map[string]string{"substitute": "false"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := off.(*local.Store).SubstitutablePaths(t.Context(), pathsOf(objects)); err != nil || len(got) > 0 {
		t.Errorf("without substituters: %v, %v", got, err)
	}
}

// A source that answers for another path than it was asked for has said nothing.
func TestSourceAnswersForAnother(t *testing.T) {
	o, other := storetest.File(t, dir, "a", "a"), storetest.File(t, dir, "b", "b")
	lying := newCache()
	lying.objects[o.Path()] = other
	w := newWorld(t, local.Options{}, lying, newCache(o))
	r := newRecord()
	if got := w.substitute(activity.With(t.Context(), r), o.Path())[0]; got.Status != store.Substituted || lying.opens() > 0 {
		t.Errorf("%+v", got)
	}
	if r.said("asked 'cache://0' for '"+dir.Print(o.Path())+"' but got '"+dir.Print(other.Path())+"'") != 1 {
		t.Errorf("%q", r.lines)
	}
	w.has(o)
}
