package nixdb_test

import (
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"testing"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/registration"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

const dir = storepath.DefaultDir

// path makes a store path whose hash part follows from its name.
func path(name string) storepath.Path {
	p, err := storepath.FromParts(nixhash.Of(nixhash.SHA256, name).Bytes()[:20], name)
	if err != nil {
		panic(err)
	}
	return p
}

func paths(names ...string) []storepath.Path {
	var list []storepath.Path
	for _, n := range names {
		list = append(list, path(n))
	}
	return list
}

// info makes the info of path(name), referring to path(refs[i]).
func info(name string, refs ...string) *store.PathInfo {
	return &store.PathInfo{
		Path:       path(name),
		NarHash:    nixhash.Of(nixhash.SHA256, "nar of "+name),
		NarSize:    uint64(100 + len(name)),
		Registered: 1700000000,
		References: storepath.SortUnique(paths(refs...)),
	}
}

func regs(infos ...*store.PathInfo) []nixdb.Registration {
	var list []nixdb.Registration
	for _, i := range infos {
		list = append(list, nixdb.Registration{Info: i})
	}
	return list
}

// open opens a database that is closed with the test.
func open(t testing.TB, dbDir string, o nixdb.Options) *nixdb.DB {
	t.Helper()
	db, err := tryOpen(t, dbDir, o)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func tryOpen(t testing.TB, dbDir string, o nixdb.Options) (*nixdb.DB, error) {
	o.Dir = dir
	db, err := nixdb.Open(t.Context(), dbDir, o)
	if err == nil {
		if _, bench := t.(*testing.B); !bench {
			db.SetLoadBatch(100)
		}
		t.Cleanup(func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return db, err
}

// newDB makes a database in a new directory and registers infos.
func newDB(t testing.TB, infos ...*store.PathInfo) (*nixdb.DB, string) {
	t.Helper()
	dbDir := filepath.Join(t.TempDir(), "nix/var/nix/db")
	db := open(t, dbDir, nixdb.Options{})
	register(t, db, infos...)
	return db, dbDir
}

func register(t testing.TB, db *nixdb.DB, infos ...*store.PathInfo) {
	t.Helper()
	if err := db.Register(t.Context(), regs(infos...)); err != nil {
		t.Fatal(err)
	}
}

// healthy fails the test if Check finds anything.
func healthy(t testing.TB, db *nixdb.DB) {
	t.Helper()
	problems, err := db.Check(t.Context(), nixdb.Thorough)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
}

// allPaths lists the names of all valid paths, sorted by path.
func allPaths(t testing.TB, db *nixdb.DB) []storepath.Path {
	t.Helper()
	var list []storepath.Path
	for p, err := range db.AllPaths(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return storepath.SortUnique(list)
}

// synthetic makes n infos in the shape of a package set: some five references
// each, most of them to few paths. With forward they refer to what comes later.
func synthetic(n int, forward bool) iter.Seq2[nixdb.Registration, error] {
	name := func(i int) string { return fmt.Sprintf("package-%d-1.2.3", i) }
	return func(yield func(nixdb.Registration, error) bool) {
		for k := range n {
			i := k
			if forward {
				i = n - 1 - k
			}
			refs := []string{name(i)}
			for _, d := range []int{i / 2, i / 7, i % 97, i / 100} {
				if d < i {
					refs = append(refs, name(d))
				}
			}
			if !yield(nixdb.Registration{Info: info(name(i), refs...)}, nil) {
				return
			}
		}
	}
}

// registrationVar names a file for benchmarks, as `nix-store --dump-db` prints it.
const registrationVar = "STRATA_BENCH_REGISTRATION"

// benchInput is what that file registers, or synthetic paths.
func benchInput(b testing.TB) iter.Seq2[nixdb.Registration, error] {
	name := os.Getenv(registrationVar)
	if name == "" {
		return synthetic(50000, false)
	}
	return func(yield func(nixdb.Registration, error) bool) {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		for info, err := range registration.Read(f, dir) {
			if !yield(nixdb.Registration{Info: info}, err) {
				return
			}
		}
	}
}
