package nixdb

import (
	"fmt"
	"slices"
	"testing"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// nodeText is all that a graph says of a node.
func nodeText(g *Graph, i int) string {
	outputs := slices.Sorted(slices.Values(g.Outputs(i)))
	return fmt.Sprint(g.Path(i), g.Row(i), g.NarSize(i), g.References(i), g.Derivation(i), outputs)
}

// A graph that is read from pages is the one that SQLite gives.
func TestGraphFromPages(t *testing.T) {
	dir := t.TempDir()
	db := openViewDB(t, dir, Options{})
	list := viewInfos(t, 0, 3000)
	for i := range 200 {
		hash := nixhash.Of(nixhash.SHA1, fmt.Sprint("drv", i))
		drv, err := storepath.FromParts(hash.Bytes(), fmt.Sprintf("d%d.drv", i))
		if err != nil {
			t.Fatal(err)
		}
		// Some outputs are not valid, some valid ones have another deriver, or one that is gone.
		outputs := map[string]storepath.Path{"out": viewPath(t, 7*i), "doc": viewPath(t, 3000+i), "dev": viewPath(t, 2900-i)}
		list = append(list, Registration{Info: &store.PathInfo{Path: drv, NarHash: hash256(i), NarSize: 9}, Outputs: outputs})
		list[7*i].Info.Deriver = drv
		list[7*i+1].Info.Deriver = viewPath(t, 4000+i)
	}
	for chunk := range slices.Chunk(list, 900) {
		if err := db.Register(t.Context(), chunk); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range []GraphOptions{{}, {NoSizes: true}} {
		looks := lookCount.Load()
		got, err := db.GraphWith(t.Context(), o)
		if err != nil || lookCount.Load() == looks {
			t.Fatalf("SQLite was asked, or %v", err)
		}
		noViews.Store(true)
		want, err := openViewDB(t, dir, Options{}).GraphWith(t.Context(), o)
		noViews.Store(false)
		if err != nil || got.Len() != want.Len() || got.Len() != 3200 {
			t.Fatalf("%d nodes and %d, %v", got.Len(), want.Len(), err)
		}
		derived, made := 0, 0
		for i := range got.Len() {
			if a, b := nodeText(got, i), nodeText(want, i); a != b {
				t.Fatalf("node %d is\n%s, and to SQLite\n%s", i, a, b)
			}
			derived, made = derived+len(got.Derivation(i)), made+len(got.Outputs(i))
		}
		if derived != 200 || made != 400 {
			t.Errorf("%d have a deriver, and %d are outputs", derived, made)
		}
	}
}

func hash256(i int) nixhash.Hash { return nixhash.Of(nixhash.SHA256, fmt.Sprint("nar", i)) }

// Realisations are read from pages, too, and tell the same.
func TestGraphOfRealisationsFromPages(t *testing.T) {
	dir := t.TempDir()
	db := openViewDB(t, dir, Options{Realisations: true})
	list := viewInfos(t, 0, 1000)
	var reals []*store.Realisation
	for i := range 60 {
		hash := nixhash.Of(nixhash.SHA1, fmt.Sprint("drv", i))
		drv, err := storepath.FromParts(hash.Bytes(), fmt.Sprintf("d%d.drv", i))
		if err != nil {
			t.Fatal(err)
		}
		r := Registration{Info: &store.PathInfo{Path: drv, NarHash: hash256(i), NarSize: 9}}
		switch i % 3 {
		case 0: // of each third derivation the path is known, of another third but one that is not valid
			r.Outputs = map[string]storepath.Path{"out": viewPath(t, i)}
		case 1:
			r.Outputs = map[string]storepath.Path{"out": viewPath(t, 5000+i)}
		}
		list = append(list, r)
		reals = append(reals, &store.Realisation{ID: store.DrvOutput{DrvHash: hash256(i), Output: "out"}, OutPath: viewPath(t, i%20)})
	}
	if err := db.Register(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	compare := func(unsettled, realised int) {
		t.Helper()
		looks := lookCount.Load()
		got, err := db.Graph(t.Context())
		if err != nil || lookCount.Load() == looks {
			t.Fatalf("SQLite was asked, or %v", err)
		}
		noViews.Store(true)
		want, err := openViewDB(t, dir, Options{}).Graph(t.Context())
		noViews.Store(false)
		if err != nil {
			t.Fatal(err)
		}
		for i := range want.Len() {
			if a, b := nodeText(got, i), nodeText(want, i); a != b {
				t.Fatalf("node %d is\n%s, and to SQLite\n%s", i, a, b)
			}
		}
		slices.Sort(got.realised.outs)
		slices.Sort(want.realised.outs)
		if !slices.Equal(got.Unsettled(), want.Unsettled()) || !slices.Equal(got.realised.outs, want.realised.outs) {
			t.Errorf("unsettled are %v, and to SQLite %v; realised %v and %v", got.Unsettled(), want.Unsettled(), got.realised.outs, want.realised.outs)
		}
		if len(got.Unsettled()) != unsettled || len(got.realised.outs) != realised {
			t.Errorf("%d are unsettled, and %d realised", len(got.Unsettled()), len(got.realised.outs))
		}
	}
	compare(0, 0)
	if err := db.RegisterRealisations(t.Context(), reals); err != nil {
		t.Fatal(err)
	}
	compare(20, 60)
}

// What a derivation made of which nobody can tell keeps all that realisations lead to, in the space of
// one.
func TestAnyOutputs(t *testing.T) {
	g := &Graph{realised: realised{drvs: []int32{1, 2, 3}, outs: []int32{4, 5}}}
	for _, name := range []string{"a", "b.drv", "c.drv", "d.drv", "x", "y"} {
		if err := g.paths.Append([]byte(viewPath(t, 0).HashPart() + "-" + name)); err != nil {
			t.Fatal(err)
		}
	}
	g.paths.Freeze()
	g.AddAnyOutputs(1)
	g.AddOutputs(2, []int32{0})
	g.AddAnyOutputs(3)
	for i, want := range map[int][]int32{0: nil, 1: {4, 5}, 2: {0}, 3: {4, 5}} {
		if got := g.Outputs(i); !slices.Equal(got, want) {
			t.Errorf("%d made %v, want %v", i, got, want)
		}
	}
	if len(g.outputs.to) != 3 {
		t.Errorf("it takes the space of %d", len(g.outputs.to))
	}
}
