package nixdb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// comparable lets cmp look into paths and hashes.
var comparable = cmp.Options{
	cmp.Comparer(func(a, b storepath.Path) bool { return a == b }),
	cmp.Comparer(func(a, b nixhash.Hash) bool { return a == b }),
}

func sig(name string) store.Signature {
	return store.Signature(name + ":" + strings.Repeat("A", 86) + "==")
}

// full is an info with everything in it.
func full() *store.PathInfo {
	h := nixhash.Of(nixhash.SHA256, "contents")
	ca := storepath.ContentAddress{Method: storepath.Recursive, Hash: h}
	p, err := dir.Make("full", ca, storepath.References{Others: paths("glibc")})
	if err != nil {
		panic(err)
	}
	return &store.PathInfo{
		Path: p, Deriver: path("full.drv"), NarHash: h, NarSize: 1 << 40, Registered: 1234567890,
		References: paths("glibc"), Ultimate: true, Signatures: []store.Signature{sig("a-1"), sig("b-1")}, CA: ca,
	}
}

func TestInfosComeBackAsTheyWereRegistered(t *testing.T) {
	want := []*store.PathInfo{info("glibc", "glibc"), full(), {Path: path("bare"), NarHash: nixhash.Of(nixhash.SHA256, ""), Registered: 1}}
	db, _ := newDB(t, want...)
	got, err := db.PathInfos(t.Context(), []storepath.Path{path("glibc"), want[1].Path, path("bare"), path("absent")})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(append(want, nil), got, comparable); d != "" {
		t.Error(d)
	}
	healthy(t, db)
}

func TestQueries(t *testing.T) {
	db, _ := newDB(t)
	drv := info("tool.drv")
	err := db.Register(t.Context(), append(
		regs(info("lib", "lib"), info("tool", "lib"), info("other", "lib", "tool")),
		nixdb.Registration{Info: drv, Outputs: map[string]storepath.Path{"out": path("tool"), "dev": path("tool-dev"), "floating": {}}},
	))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	check := func(what string, want, got any, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		} else if d := cmp.Diff(want, got, comparable); d != "" {
			t.Errorf("%s: %s", what, d)
		}
	}
	valid, err := db.ValidPaths(ctx, paths("tool", "absent", "lib"))
	check("ValidPaths", paths("tool", "lib"), valid, err)
	referrers, err := db.Referrers(ctx, paths("lib", "absent", "tool"))
	check("Referrers", [][]storepath.Path{storepath.SortUnique(paths("lib", "tool", "other")), nil, paths("other")}, referrers, err)
	derivers, err := db.ValidDerivers(ctx, path("tool-dev"))
	check("ValidDerivers", paths("tool.drv"), derivers, err)
	derivers, err = db.ValidDerivers(ctx, path("lib"))
	check("ValidDerivers", []storepath.Path(nil), derivers, err)
	outputs, err := db.DerivationOutputs(ctx, drv.Path)
	check("DerivationOutputs", map[string]storepath.Path{"out": path("tool"), "dev": path("tool-dev")}, outputs, err)
	p, err := db.PathFromHashPart(ctx, path("tool").HashPart())
	check("PathFromHashPart", path("tool"), p, err)
	p, err = db.PathFromHashPart(ctx, path("absent").HashPart())
	check("PathFromHashPart", storepath.Path{}, p, err)
	closure, err := db.Closure(ctx, paths("other"), nixdb.ClosureOptions{})
	check("Closure", storepath.SortUnique(paths("other", "tool", "lib")), storepath.SortUnique(closure), err)
	closure, err = db.Closure(ctx, paths("tool"), nixdb.ClosureOptions{Referrers: true})
	check("Closure backwards", storepath.SortUnique(paths("other", "tool")), storepath.SortUnique(closure), err)
	stats, err := db.Stats(ctx)
	check("Stats", nixdb.Stats{Paths: 4, NarBytes: 400 + 3 + 4 + 5 + 8}, stats, err)
	healthy(t, db)

	if _, err = db.DerivationOutputs(ctx, path("absent.drv")); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("outputs of an invalid derivation: %v", err)
	}
	if _, err = db.Closure(ctx, paths("absent"), nixdb.ClosureOptions{}); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("closure of an invalid path: %v", err)
	}
	if _, err = db.PathFromHashPart(ctx, "nonsense"); !errors.Is(err, storepath.ErrFormat) {
		t.Errorf("malformed hash part: %v", err)
	}
}

func TestListingsGoOverManyPages(t *testing.T) {
	db, _ := newDB(t)
	const n = 3000
	if k, err := db.Load(t.Context(), synthetic(n, false)); err != nil || k != n {
		t.Fatal(k, err)
	}
	seen := storepath.Set{}
	for i, err := range db.AllPathInfos(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if !seen.Add(i.Path) {
			t.Fatalf("%s comes twice", i.Path)
		}
		if len(i.References) == 0 {
			t.Errorf("%s has no references", i.Path)
		}
		// The listing holds nothing that would keep a writer out, and does not run
		// after what it adds.
		if len(seen)%500 == 0 {
			register(t, db, info(fmt.Sprintf("meanwhile-%d", len(seen))))
		}
	}
	if len(seen) != n {
		t.Errorf("listed %d of %d", len(seen), n)
	}
	if got := len(allPaths(t, db)); got != n+6 {
		t.Errorf("%d paths at the end", got)
	}
}

func TestListingEndsWithItsContext(t *testing.T) {
	db, _ := newDB(t, info("a"), info("b"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range db.AllPaths(ctx) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
}

func TestUpdateChangesOnlyWhatMayChange(t *testing.T) {
	db, _ := newDB(t, info("lib"), info("tool", "lib"))
	changed := info("tool")
	changed.NarSize, changed.Ultimate, changed.Signatures, changed.Registered = 7, true, []store.Signature{sig("k-1")}, 5
	if err := db.Update(t.Context(), []*store.PathInfo{changed}); err != nil {
		t.Fatal(err)
	}
	if err := db.AddSignatures(t.Context(), path("tool"), []store.Signature{sig("k-1"), sig("j-1")}); err != nil {
		t.Fatal(err)
	}
	got, err := db.PathInfos(t.Context(), paths("tool"))
	if err != nil {
		t.Fatal(err)
	}
	want := info("tool", "lib")
	want.NarSize, want.Ultimate, want.Signatures = 7, true, []store.Signature{sig("j-1"), sig("k-1")}
	if d := cmp.Diff([]*store.PathInfo{want}, got, comparable); d != "" {
		t.Error(d)
	}
	for what, err := range map[string]error{
		"Update":        db.Update(t.Context(), []*store.PathInfo{info("lib"), info("absent")}),
		"AddSignatures": db.AddSignatures(t.Context(), path("absent"), nil),
	} {
		var invalid *store.InvalidPathError
		if !errors.As(err, &invalid) || invalid.Path != dir.Print(path("absent")) {
			t.Errorf("%s of an invalid path: %v", what, err)
		}
	}
}

func TestInvalidateTakesAllOrNothing(t *testing.T) {
	db, _ := newDB(t, info("a", "a"), info("b", "a", "b"), info("c", "b"))
	var used *nixdb.InUseError
	err := db.Invalidate(t.Context(), paths("a", "b"))
	if !errors.As(err, &used) || used.By != dir.Print(path("c")) || used.Path != dir.Print(path("b")) || !errors.Is(err, store.ErrAlive) {
		t.Errorf("got %v", err)
	}
	if n := len(allPaths(t, db)); n != 3 {
		t.Errorf("%d paths are left", n)
	}
	// The order does not matter, and neither does what is not there.
	if err := db.Invalidate(t.Context(), paths("b", "absent", "c", "c")); err != nil {
		t.Fatal(err)
	}
	if got := allPaths(t, db); !slices.Equal(got, paths("a")) {
		t.Errorf("left: %v", got)
	}
	healthy(t, db)
}

func TestManyUsersAtOnce(t *testing.T) {
	db, dbDir := newDB(t, info("base"))
	other := open(t, dbDir, nixdb.Options{}) // as another process would
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			db := []*nixdb.DB{db, other}[i%2]
			for k := range 20 {
				mine := info(fmt.Sprintf("p-%d-%d", i, k), "base")
				if err := db.Register(t.Context(), regs(mine)); err != nil {
					t.Error(err)
					return
				}
				infos, err := db.PathInfos(t.Context(), []storepath.Path{mine.Path, path("base")})
				if err != nil || infos[0] == nil || infos[1] == nil {
					t.Errorf("%v: %v", infos, err)
					return
				}
				if k%2 == 0 {
					if err := db.Invalidate(t.Context(), []storepath.Path{mine.Path}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if n := len(allPaths(t, db)); n != 1+8*10 {
		t.Errorf("%d paths", n)
	}
	healthy(t, db)
}

func TestBusyDatabaseGivesUpWithItsContext(t *testing.T) {
	db, dbDir := newDB(t, info("a"))
	other := open(t, dbDir, nixdb.Options{})
	// The writer's place is taken while Load waits for more input.
	begun, end := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := other.Load(t.Context(), func(yield func(nixdb.Registration, error) bool) {
			n := 0
			for r, err := range synthetic(500, false) {
				if n++; n == 300 {
					close(begun)
					<-end
				}
				if !yield(r, err) {
					return
				}
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-begun
	impatient := func(path string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		return db.Register(ctx, regs(info(path)))
	}
	// What Load asks for it asks ahead, and may not have the writer's place yet.
	for impatient("a") == nil {
	}
	err := impatient("b")
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, nixdb.ErrBusy) {
		t.Errorf("got %v", err)
	}
	// Readers see the state before it.
	if n := len(allPaths(t, db)); n != 1 {
		t.Errorf("%d paths", n)
	}
	close(end)
	wg.Wait()
	if n := len(allPaths(t, db)); n != 501 {
		t.Errorf("%d paths", n)
	}
}

func TestClosedDatabaseSaysSo(t *testing.T) {
	db, err := nixdb.Open(t.Context(), t.TempDir(), nixdb.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ValidPaths(t.Context(), paths("a")); !errors.Is(err, nixdb.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
