package nixdb_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func drvOutput(name string) store.DrvOutput {
	return store.DrvOutput{DrvHash: nixhash.Of(nixhash.SHA256, name), Output: "out"}
}

func TestRealisations(t *testing.T) {
	ctx := t.Context()
	db := open(t, t.TempDir(), nixdb.Options{Realisations: true})
	register(t, db, info("lib"), info("tool", "lib"))
	lib := &store.Realisation{ID: drvOutput("lib"), OutPath: path("lib"), Signatures: []store.Signature{sig("a-1")}}
	tool := &store.Realisation{ID: drvOutput("tool"), OutPath: path("tool"),
		Dependent: map[store.DrvOutput]storepath.Path{lib.ID: lib.OutPath}}
	if err := db.RegisterRealisations(ctx, []*store.Realisation{tool, lib}); err != nil {
		t.Fatal(err)
	}
	// Signatures are merged.
	more := &store.Realisation{ID: lib.ID, OutPath: lib.OutPath, Signatures: []store.Signature{sig("b-1"), sig("a-1")}}
	if err := db.RegisterRealisations(ctx, []*store.Realisation{more}); err != nil {
		t.Fatal(err)
	}
	lib.Signatures = []store.Signature{sig("a-1"), sig("b-1")}
	got, err := db.Realisations(ctx, []store.DrvOutput{lib.ID, drvOutput("absent"), tool.ID})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]*store.Realisation{lib, nil, tool}, got, comparable); d != "" {
		t.Error(d)
	}
	n := 0
	for r, err := range db.AllRealisations(ctx) {
		if err != nil || r == nil {
			t.Fatal(r, err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("listed %d", n)
	}

	var conflict *nixdb.RealisationConflictError
	err = db.RegisterRealisations(ctx, []*store.Realisation{{ID: lib.ID, OutPath: path("tool")}})
	if !errors.As(err, &conflict) || conflict.Have != dir.Print(path("lib")) {
		t.Errorf("another path for the same output: %v", err)
	}
	err = db.RegisterRealisations(ctx, []*store.Realisation{{ID: drvOutput("x"), OutPath: path("absent")}})
	if !errors.Is(err, store.ErrNotValid) {
		t.Errorf("realisation of an invalid path: %v", err)
	}
	// They go with their paths, whatever was built with them.
	if err := db.Invalidate(ctx, paths("tool", "lib")); err != nil {
		t.Fatal(err)
	}
	if got, err = db.Realisations(ctx, []store.DrvOutput{lib.ID, tool.ID}); err != nil || got[0] != nil || got[1] != nil {
		t.Errorf("after the paths are gone: %v, %v", got, err)
	}
	healthy(t, db)
}

func TestDeleteRealisations(t *testing.T) {
	ctx := t.Context()
	db := open(t, t.TempDir(), nixdb.Options{Realisations: true})
	register(t, db, info("lib"), info("tool"))
	lib := &store.Realisation{ID: drvOutput("lib"), OutPath: path("lib")}
	tool := &store.Realisation{ID: drvOutput("tool"), OutPath: path("tool"),
		Dependent: map[store.DrvOutput]storepath.Path{lib.ID: lib.OutPath, drvOutput("unknown"): path("lib")}}
	if err := db.RegisterRealisations(ctx, []*store.Realisation{lib, tool}); err != nil {
		t.Fatal(err)
	}
	if err := db.DeleteRealisations(ctx, []store.DrvOutput{lib.ID, drvOutput("absent")}); err != nil {
		t.Fatal(err)
	}
	got, err := db.Realisations(ctx, []store.DrvOutput{lib.ID, tool.ID})
	if err != nil || got[0] != nil || got[1] == nil || len(got[1].Dependent) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestDatabaseWithoutRealisations(t *testing.T) {
	db, _ := newDB(t, info("lib"))
	if got, err := db.Realisations(t.Context(), []store.DrvOutput{drvOutput("x")}); err != nil || got[0] != nil {
		t.Errorf("got %v, %v", got, err)
	}
	for _, err := range db.AllRealisations(t.Context()) {
		t.Errorf("listed something: %v", err)
	}
	if err := db.DeleteRealisations(t.Context(), []store.DrvOutput{drvOutput("x")}); err != nil {
		t.Error(err)
	}
	err := db.RegisterRealisations(t.Context(), []*store.Realisation{{ID: drvOutput("x"), OutPath: path("lib")}})
	if !errors.Is(err, store.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}
