package nixdb_test

import (
	"slices"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/storepath"
)

func TestGraph(t *testing.T) {
	db, _ := newDB(t)
	built := info("tool", "lib", "tool")
	built.Deriver = path("tool.drv")
	fetched := info("copied") // an output of another derivation that is here too
	fetched.Deriver = path("gone.drv")
	err := db.Register(t.Context(), append(regs(info("lib"), built, fetched),
		nixdb.Registration{Info: info("tool.drv", "lib"), Outputs: map[string]storepath.Path{"out": path("tool"), "doc": path("not-built")}},
		nixdb.Registration{Info: info("copied.drv"), Outputs: map[string]storepath.Path{"out": path("copied")}},
	))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Invalidate(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	g, err := db.Graph(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := func(nodes []int32) []storepath.Path {
		var list []storepath.Path
		for _, n := range nodes {
			list = append(list, g.Path(int(n)))
		}
		return storepath.SortUnique(list)
	}
	check := func(what string, got []int32, want ...string) {
		t.Helper()
		if !slices.Equal(names(got), storepath.SortUnique(paths(want...))) {
			t.Errorf("%s: got %v, want %v", what, names(got), want)
		}
	}
	if g.Len() != 5 || g.Find(path("absent")) != -1 {
		t.Errorf("%d paths, absent is %d", g.Len(), g.Find(path("absent")))
	}
	for i := range g.Len() {
		if g.Find(g.Path(i)) != i {
			t.Errorf("%s is not where it is", g.Path(i))
		}
	}
	tool, drv, copied, copiedDrv := g.Find(path("tool")), g.Find(path("tool.drv")), g.Find(path("copied")), g.Find(path("copied.drv"))
	if g.NarSize(tool) != built.NarSize {
		t.Errorf("size %d", g.NarSize(tool))
	}
	check("references", g.References(tool), "lib", "tool")
	check("no references", g.References(g.Find(path("lib"))))

	if g.Keeps(false, false) != nil {
		t.Error("something is kept for nothing")
	}
	check("keep-outputs", g.Keeps(true, false)(drv), "tool")
	check("keep-outputs of another deriver", g.Keeps(true, false)(copiedDrv), "copied")
	check("keep-outputs of an output", g.Keeps(true, false)(tool))
	check("keep-derivations", g.Keeps(false, true)(tool), "tool.drv")
	check("keep-derivations of another deriver", g.Keeps(false, true)(copied))
	check("both, of a derivation", g.Keeps(true, true)(drv), "tool")
	check("both, of an output", g.Keeps(true, true)(tool), "tool.drv")
}

// Numbers of rows with gaps take another way than those without.
func TestGraphWithGaps(t *testing.T) {
	testenv.LongWithRace(t)
	db, _ := newDB(t)
	if _, err := db.Load(t.Context(), synthetic(3000, false)); err != nil {
		t.Fatal(err)
	}
	register(t, db, info("first"))
	var most []storepath.Path
	for p := range db.AllPaths(t.Context()) {
		if p != path("first") {
			most = append(most, p)
		}
	}
	if err := db.Invalidate(t.Context(), most); err != nil {
		t.Fatal(err)
	}
	register(t, db, info("second", "first"))
	g, err := db.Graph(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if g.Len() != 2 || !slices.Equal(g.References(g.Find(path("second"))), []int32{int32(g.Find(path("first")))}) {
		t.Errorf("%d paths, references %v", g.Len(), g.References(g.Find(path("second"))))
	}
}
