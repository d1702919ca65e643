package nixdb_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func TestRewrite(t *testing.T) {
	db, _ := newDB(t, info("old"), info("lib", "old"), info("tool", "lib"), info("gone", "lib"), info("kept"))
	lib := info("lib", "lib", "new") // refers to something else now
	lib.NarSize = 7
	r := nixdb.Rewrite{
		Put: []nixdb.Registration{
			{Info: lib}, {Info: info("new")},
			{Info: info("x.drv"), Outputs: map[string]storepath.Path{"out": path("x")}},
		},
		Drop: paths("old", "gone", "absent"),
	}
	for range 2 { // once more changes nothing
		if err := db.Rewrite(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if got, want := allPaths(t, db), storepath.SortUnique(paths("lib", "tool", "kept", "new", "x.drv")); !slices.Equal(got, want) {
			t.Errorf("there are %v, want %v", got, want)
		}
		infos, err := db.PathInfos(t.Context(), paths("lib", "tool"))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]*store.PathInfo{lib, info("tool", "lib")}, infos, comparable); d != "" {
			t.Error(d)
		}
		outputs, err := db.DerivationOutputs(t.Context(), path("x.drv"))
		if err != nil || outputs["out"] != path("x") {
			t.Errorf("%v, %v", outputs, err)
		}
		healthy(t, db)
	}
	if err := db.Sync(); err != nil {
		t.Error(err)
	}

	// What is still referred to is not dropped, and then nothing happens.
	var used *nixdb.InUseError
	err := db.Rewrite(t.Context(), nixdb.Rewrite{Put: regs(info("more")), Drop: paths("lib")})
	if !errors.As(err, &used) {
		t.Errorf("%v", err)
	}
	if err := db.Rewrite(t.Context(), nixdb.Rewrite{Put: regs(info("more", "nowhere"))}); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("%v", err)
	}
	if valid, err := db.ValidPaths(t.Context(), paths("more", "lib")); err != nil || !slices.Equal(valid, paths("lib")) {
		t.Errorf("%v, %v", valid, err)
	}
}

func TestSample(t *testing.T) {
	db, _ := newDB(t)
	sample := func(n int) (names []string) {
		t.Helper()
		infos, err := db.Sample(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range infos {
			names = append(names, i.Path.Name())
		}
		return names
	}
	if got := sample(5); got != nil {
		t.Errorf("of nothing: %q", got)
	}
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i"} {
		register(t, db, info(name))
	}
	if got := sample(5); !slices.Equal(got, []string{"a", "c", "e", "g", "i"}) {
		t.Errorf("%q", got)
	}
	if got := sample(50); len(got) != 9 {
		t.Errorf("more than there are: %q", got)
	}
	if got := sample(1); !slices.Equal(got, []string{"a"}) {
		t.Errorf("%q", got)
	}
	if err := db.Invalidate(t.Context(), paths("a", "c", "i")); err != nil {
		t.Fatal(err)
	}
	if got := sample(3); !slices.Equal(got, []string{"b", "e", "h"}) {
		t.Errorf("with gaps: %q", got)
	}
}
