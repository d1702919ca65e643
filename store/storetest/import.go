package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Web makes n objects that refer to up to three before them.
func Web(t testing.TB, dir storepath.Dir, n int) []Object {
	t.Helper()
	var out []Object
	for i := range n {
		var refs []storepath.Path
		for _, back := range []int{1, 3, 17} {
			if i >= back && i%(back+1) != 0 {
				refs = append(refs, out[i-back].Path())
			}
		}
		out = append(out, File(t, dir, fmt.Sprintf("web-%d", i), fmt.Sprintf("object %d of the web", i), refs...))
	}
	return out
}

// outcomes hears what becomes of imports, and that it hears so once of each.
type outcomes struct {
	t    *testing.T
	errs []error
	from []*store.Offer
	seen []bool
}

func newOutcomes(t *testing.T, n int) *outcomes {
	return &outcomes{t: t, errs: make([]error, n), from: make([]*store.Offer, n), seen: make([]bool, n)}
}

func (o *outcomes) done(i int, from *store.Offer, err error) {
	if o.seen[i] {
		o.t.Errorf("import %d has two outcomes", i)
	}
	o.seen[i], o.from[i], o.errs[i] = true, from, err
}

func (o *outcomes) complete() {
	o.t.Helper()
	if i := slices.Index(o.seen, false); i >= 0 {
		o.t.Errorf("import %d has no outcome", i)
	}
}

func importAll(t *testing.T, s store.Store, imports []store.Import) (*outcomes, error) {
	t.Helper()
	im, err := store.Need[store.Importer](s, "import")
	if err != nil {
		t.Fatal(err)
	}
	out := newOutcomes(t, len(imports))
	err = im.Import(t.Context(), imports, store.ImportOptions{AddOptions: trusting, Jobs: 4, Done: out.done})
	out.complete()
	return out, err
}

// testImport imports in an order that is not that of references.
func testImport(t *testing.T, s store.Store) {
	objects := Web(t, s.Dir(), 200)
	add(t, s, objects[:20]...)
	opened := make([]atomic.Int64, len(objects))
	var imports []store.Import
	order := rand.New(rand.NewPCG(1, 2)).Perm(len(objects))
	for _, i := range order {
		imports = append(imports, objects[i].Import(&opened[i]))
	}
	imports = append(imports, objects[100].Import(&opened[100])) // twice
	out, err := importAll(t, s, imports)
	if err != nil {
		t.Fatal(err)
	}
	for n, i := range order {
		want := int64(1)
		if i < 20 {
			want = 0 // was valid
		}
		if got := opened[i].Load(); got != want {
			t.Errorf("object %d was fetched %d times", i, got)
		}
		if out.errs[n] != nil || (out.from[n] == nil) != (i < 20) {
			t.Errorf("object %d: from %v, %v", i, out.from[n], out.errs[n])
		}
		same(t, s, objects[i])
	}
	if out, err := importAll(t, s, nil); err != nil || len(out.errs) != 0 {
		t.Errorf("nothing: %v", err)
	}
}

func testImportNextOffers(t *testing.T, s store.Store) {
	base := File(t, s.Dir(), "base", "base")
	text := string(make([]byte, 300_000))
	for name, bad := range map[string]func(o Object) store.Offer{
		"unopenable": Object.Unopenable,
		"broken":     Object.Broken,
		"cut":        Object.Cut,
		"longer":     Object.Longer,
		"changed":    Object.Changed,
		"another": func(o Object) store.Offer {
			return File(t, s.Dir(), "other", "other").Offer(nil)
		},
		"lie": func(o Object) store.Offer {
			offer := o.Offer(nil)
			offer.Info = offer.Info.Clone()
			offer.Info.NarSize++
			return offer
		},
		"dangling": func(o Object) store.Offer {
			offer := o.Offer(nil)
			offer.Info = offer.Info.Clone()
			offer.Info.References = []storepath.Path{File(t, s.Dir(), "nobody", "x").Path()}
			return offer
		},
	} {
		t.Run(name, func(t *testing.T) {
			first := Tree(t, s.Dir(), "first", map[string]string{"a": name, "b/c": text}, base.Path())
			second := File(t, s.Dir(), "second", name, first.Path())
			asked := 0
			imports := []store.Import{
				second.Import(nil),
				{Path: first.Path(), Offers: []store.Offer{bad(first), bad(first)}, More: func(_ context.Context, err error) []store.Offer {
					if asked++; err == nil || asked > 1 {
						t.Errorf("asked for more: %v", err)
						return nil
					}
					return []store.Offer{bad(first), first.Offer(nil)}
				}},
				base.Import(nil),
			}
			if _, err := importAll(t, s, imports); err != nil {
				t.Fatal(err)
			}
			same(t, s, first)
			same(t, s, second)
		})
	}
}

// testImportPart imports a web of which one object cannot be had.
func testImportPart(t *testing.T, s store.Store) {
	objects := Web(t, s.Dir(), 120)
	const lost = 40
	without := storepath.NewSet(objects[lost].Path()) // those that cannot do without
	var imports []store.Import
	for i, o := range objects {
		m := o.Import(nil)
		if i == lost {
			m.Offers = []store.Offer{o.Broken(), o.Cut()}
		} else if slices.ContainsFunc(o.Info.References, without.Has) {
			without.Add(o.Path())
		}
		imports = append(imports, m)
	}
	slices.Reverse(imports)
	out, err := importAll(t, s, imports)
	if !errors.Is(err, ErrFault) {
		t.Errorf("the error is %v", err)
	}
	for i, m := range imports {
		isValid := len(valid(t, s, m.Path)) > 0
		var dependency *store.DependencyError
		switch {
		case !without.Has(m.Path):
			if !isValid || out.errs[i] != nil {
				t.Errorf("%s needs nothing that is lost: %v", m.Path, out.errs[i])
			}
		case isValid:
			t.Errorf("%s is valid", m.Path)
		case m.Path == objects[lost].Path():
			if !errors.Is(out.errs[i], ErrFault) {
				t.Errorf("what cannot be had: %v", out.errs[i])
			}
		case !errors.As(out.errs[i], &dependency):
			t.Errorf("%s: %v", m.Path, out.errs[i])
		}
	}
}

// testImportOtherReferences has offers that say different things of what an object
// refers to. Only a plain path can have such.
func testImportOtherReferences(t *testing.T, s store.Store) {
	a, b := File(t, s.Dir(), "a", "a"), File(t, s.Dir(), "b", "b")
	top := File(t, s.Dir(), "top", "top").Plain(t, s.Dir(), false)
	onB := Object{Info: top.Info.Clone(), NAR: top.NAR}
	onB.Info.References = []storepath.Path{b.Path()}
	onA := Object{Info: top.Info.Clone(), NAR: top.NAR}
	onA.Info.References = []storepath.Path{a.Path()}
	above := File(t, s.Dir(), "above", "above", top.Path())
	_, err := importAll(t, s, []store.Import{
		above.Import(nil),
		{Path: top.Path(), Offers: []store.Offer{onA.Broken(), onB.Offer(nil)}},
		a.Import(nil),
		b.Import(nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, s, onB)
	same(t, s, above)
}

func testImportCircle(t *testing.T, s store.Store) {
	var objects []Object
	for i := range 4 {
		objects = append(objects, File(t, s.Dir(), fmt.Sprintf("circle-%d", i), fmt.Sprint(i)).Plain(t, s.Dir(), false))
	}
	for i, o := range objects[:3] {
		o.Info.References = []storepath.Path{objects[(i+1)%3].Path()}
	}
	objects[3].Info.References = []storepath.Path{objects[0].Path()}
	other := File(t, s.Dir(), "other", "other")
	var imports []store.Import
	for _, o := range append(objects, other) {
		imports = append(imports, o.Import(nil))
	}
	out, err := importAll(t, s, imports)
	if err == nil || out.errs[4] != nil {
		t.Errorf("%v, %v", err, out.errs)
	}
	for i := range objects {
		if out.errs[i] == nil || len(valid(t, s, objects[i].Path())) > 0 {
			t.Errorf("object %d of a circle: %v", i, out.errs[i])
		}
	}
	same(t, s, other)
}

func testImportCanceled(t *testing.T, s store.Store) {
	im, _ := store.As[store.Importer](s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a := File(t, s.Dir(), "a", "a")
	hung := File(t, s.Dir(), "hung", "hung", a.Path())
	above := File(t, s.Dir(), "above", "above", hung.Path())
	err := im.Import(ctx, []store.Import{
		{Path: hung.Path(), Offers: []store.Offer{hung.Hanging(cancel)}},
		a.Import(nil),
		above.Import(nil),
	}, store.ImportOptions{AddOptions: trusting})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if v := valid(t, s, hung.Path(), above.Path()); len(v) > 0 {
		t.Errorf("valid: %v", v)
	}
	// Nothing of it is in the way.
	if _, err := importAll(t, s, []store.Import{above.Import(nil), hung.Import(nil), a.Import(nil)}); err != nil {
		t.Fatal(err)
	}
	same(t, s, above)
}
