package nixdb_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// bulkMark is reached by loads that fill an empty database past SQL.
const bulkMark = "nixdb: the image of a load was committed"

// bulkInput is a load with everything that a registration may have, in any order.
func bulkInput(n int) []nixdb.Registration {
	var all []nixdb.Registration
	for r := range synthetic(n, false) {
		i := len(all)
		switch i % 5 {
		case 1:
			r.Info.Deriver, r.Info.Ultimate = path(fmt.Sprintf("drv-%d.drv", i)), true
		case 2:
			r.Info.NarSize, r.Info.Registered = 1<<40+uint64(i), int64(i)
			for k := range i % 130 { // some rows take several pages
				r.Info.Signatures = append(r.Info.Signatures, store.Signature(fmt.Sprintf("key-%03d:%s", k, nixhash.Of(nixhash.SHA256, "s").Digest(nixhash.Base64))))
			}
		case 3:
			r.Info.NarSize = 0
			r.Outputs = map[string]storepath.Path{"out": path(fmt.Sprintf("out-%d", i)), "dev": path(fmt.Sprintf("dev-%d", i%100)), "later": {}}
		}
		all = append(all, r)
	}
	rand.New(rand.NewPCG(7, 8)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func each(regs []nixdb.Registration) iter.Seq2[nixdb.Registration, error] {
	return func(yield func(nixdb.Registration, error) bool) {
		for _, r := range regs {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// load loads, and tells whether that was done past SQL.
func load(t *testing.T, db *nixdb.DB, regs []nixdb.Registration) (past bool, err error) {
	t.Helper()
	defer crashpoint.Watch(func(name string) { past = past || name == bulkMark })()
	n, err := db.Load(t.Context(), each(regs))
	if err == nil && n != len(regs) {
		t.Errorf("%d of %d were loaded", n, len(regs))
	}
	return past, err
}

// same compares what databases have, but for numbers of rows.
func same(t *testing.T, got, want *nixdb.DB, derivations []storepath.Path) {
	t.Helper()
	if d := cmp.Diff(listed(t, want), listed(t, got), comparable); d != "" {
		t.Error(d[:min(len(d), 2000)])
	}
	for _, p := range derivations {
		g, err1 := got.DerivationOutputs(t.Context(), p)
		w, err2 := want.DerivationOutputs(t.Context(), p)
		if err := errors.Join(err1, err2); err != nil || !maps.Equal(g, w) {
			t.Fatalf("outputs of %s: %v, not %v (%v)", p, g, w, err)
		}
	}
}

// TestLoadPastSQL compares a load into an empty database with registering the same.
func TestLoadPastSQL(t *testing.T) {
	regs := bulkInput(900)
	var derivations []storepath.Path
	for _, r := range regs {
		if r.Outputs != nil {
			derivations = append(derivations, r.Info.Path)
		}
	}
	want, _ := newDB(t)
	if err := want.Register(t.Context(), slices.Clone(regs)); err != nil {
		t.Fatal(err)
	}
	for _, o := range []nixdb.Options{{}, {Realisations: true}} {
		dbDir := filepath.Join(t.TempDir(), "db")
		db := open(t, dbDir, o)
		register(t, db, info("gone")) // its number is not given again
		if err := db.Invalidate(t.Context(), paths("gone")); err != nil {
			t.Fatal(err)
		}
		if past, err := load(t, db, regs); err != nil || !past {
			t.Fatalf("past SQL: %v, %v", past, err)
		}
		healthy(t, db)
		same(t, db, want, derivations)
		rows, err := db.LookUp(t.Context(), []storepath.Path{regs[0].Info.Path, regs[len(regs)-1].Info.Path})
		if err != nil || rows[0].ID != 2 || rows[1].ID != int64(len(regs))+1 {
			t.Errorf("rows %+v (%v)", rows, err)
		}
		register(t, db, info("one-more")) // SQLite goes on with it
		healthy(t, db)
		if _, err := os.Lstat(filepath.Join(dbDir, "loading.sqlite")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the image is left: %v", err)
		}
	}
}

// TestLoadOfPathsThatComeAgain has the last registration of a path count, with the references of all.
func TestLoadOfPathsThatComeAgain(t *testing.T) {
	regs := bulkInput(500)
	for _, r := range slices.Clone(regs[100:200]) {
		again := *r.Info
		again.NarSize, again.References = 77, paths("package-0-1.2.3")
		regs = append(regs, nixdb.Registration{Info: &again})
	}
	want, _ := newDB(t)
	for part := range slices.Chunk(slices.Clone(regs), 500) {
		if err := want.Register(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	db, _ := newDB(t)
	if past, err := load(t, db, regs); err != nil || !past {
		t.Fatalf("past SQL: %v, %v", past, err)
	}
	healthy(t, db)
	same(t, db, want, nil)
	cyclic := append(slices.Clone(regs), nixdb.Registration{Info: info("package-0-1.2.3", "package-1-1.2.3")},
		nixdb.Registration{Info: info("package-1-1.2.3", "package-0-1.2.3")})
	db, _ = newDB(t)
	var cycle *nixdb.CycleError
	if _, err := load(t, db, cyclic); !errors.As(err, &cycle) || len(allPaths(t, db)) != 0 {
		t.Errorf("a cycle by way of later registrations: %v", err)
	}
}

// TestLoadBesideOthers fills by SQL what others have open, or what is not as Nix makes it.
func TestLoadBesideOthers(t *testing.T) {
	regs := bulkInput(150)
	sql := func(statement string) func(*testing.T, string) {
		return func(t *testing.T, dbDir string) {
			c, err := sqlite.OpenConn(filepath.Join(dbDir, "db.sqlite"), sqlite.OpenReadWrite)
			if err == nil {
				err = errors.Join(sqlitex.ExecuteTransient(c, statement, nil), c.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for what, prepare := range map[string]func(t *testing.T, dbDir string){
		"open elsewhere":       func(t *testing.T, dbDir string) { open(t, dbDir, nixdb.Options{}) },
		"a path there":         func(t *testing.T, dbDir string) { register(t, open(t, dbDir, nixdb.Options{}), info("there")) },
		"one index more":       sql("create index more on ValidPaths (hash)"),
		"one index less":       sql("drop index IndexReference"),
		"one column more":      sql("alter table Refs add column more text"),
		"a trigger":            sql("create trigger more after insert on Refs begin select 1; end"),
		"an index of its own":  sql("create unique index other on DerivationOutputs (drv, path)"),
		"an output of nothing": sql("insert into DerivationOutputs values (17, 'out', '/nix/store/x')"),
	} {
		t.Run(what, func(t *testing.T) {
			dbDir := filepath.Join(t.TempDir(), "db")
			if err := open(t, dbDir, nixdb.Options{}).Release(); err != nil {
				t.Fatal(err)
			}
			prepare(t, dbDir)
			db := open(t, dbDir, nixdb.Options{})
			if past, err := load(t, db, regs); err != nil || past {
				t.Errorf("past SQL: %v, %v", past, err)
			}
			if n := len(allPaths(t, db)); n < len(regs) {
				t.Errorf("%d paths", n)
			}
		})
	}
}

// loaderVar makes this test binary load into a database, killed at a mark.
const loaderVar = "STRATA_NIXDB_LOADER"

func loadAndDie(dbDir string) error {
	db, err := nixdb.Open(context.Background(), dbDir, nixdb.Options{Dir: dir})
	if err != nil {
		return err
	}
	db.SetLoadBatch(100)
	at := 0
	fmt.Sscan(os.Getenv(loaderVar+"_AT"), &at)
	crashpoint.KillAt(at, nil)
	_, err = db.Load(context.Background(), each(bulkInput(400)))
	return errors.Join(err, db.Close())
}

// TestKilledLoad kills a load at each of its marks: all is in the database then, or nothing.
func TestKilledLoad(t *testing.T) {
	for at := range 10 {
		dbDir := filepath.Join(t.TempDir(), "db")
		if err := open(t, dbDir, nixdb.Options{}).Close(); err != nil {
			t.Fatal(err)
		}
		child := exec.Command("/proc/self/exe")
		child.Env = append(os.Environ(), loaderVar+"="+dbDir, fmt.Sprintf("%s_AT=%d", loaderVar, at))
		child.Stderr = os.Stderr
		end := child.Run()
		db := open(t, dbDir, nixdb.Options{})
		n := len(allPaths(t, db))
		if n != 0 && n != 400 {
			t.Errorf("killed at %d: %d paths", at, n)
		}
		healthy(t, db)
		if n == 0 {
			if past, err := load(t, db, bulkInput(400)); err != nil || !past {
				t.Errorf("killed at %d, and again: %v, %v", at, past, err)
			}
			healthy(t, db)
		}
		if end == nil {
			if at < 2 {
				t.Errorf("there were %d marks", at)
			}
			return
		}
	}
	t.Error("it does not come to an end")
}

// TestInterruptedLoad leaves nothing, wherever it is interrupted.
func TestInterruptedLoad(t *testing.T) {
	db, dbDir := newDB(t)
	regs := bulkInput(400)
	for _, after := range []int{150, 399} {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		_, err := db.Load(ctx, func(yield func(nixdb.Registration, error) bool) {
			for _, r := range regs {
				if n++; n == after {
					cancel()
				}
				if !yield(r, nil) {
					return
				}
			}
		})
		cancel()
		if !errors.Is(err, context.Canceled) || len(allPaths(t, db)) != 0 {
			t.Errorf("after %d: %v", after, err)
		}
		if _, err := os.Lstat(filepath.Join(dbDir, "loading.sqlite")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the image is left: %v", err)
		}
	}
	// Others can open it again.
	healthy(t, open(t, dbDir, nixdb.Options{}))
}
