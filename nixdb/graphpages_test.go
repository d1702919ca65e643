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
