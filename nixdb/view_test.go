package nixdb

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

const viewDir = storepath.DefaultDir

func viewPath(t testing.TB, n int) storepath.Path {
	t.Helper()
	p, err := viewDir.MakeOutput("out", nixhash.Of(nixhash.SHA256, fmt.Sprint(n)), fmt.Sprintf("path-%d", n))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// viewInfos are infos of n paths from first on; each refers to some before it.
func viewInfos(t testing.TB, first, n int) []Registration {
	t.Helper()
	var list []Registration
	for i := first; i < first+n; i++ {
		info := &store.PathInfo{Path: viewPath(t, i), NarHash: nixhash.Of(nixhash.SHA256, fmt.Sprint("nar", i)), NarSize: uint64(i), Registered: 1 + int64(i)}
		for k := 1; k <= i%7 && i-k*k >= first; k++ {
			info.References = append(info.References, viewPath(t, i-k*k))
		}
		if i%3 == 0 {
			info.References = append(info.References, info.Path)
			info.Ultimate = true
		}
		info.References = storepath.SortUnique(info.References)
		if i%100 == 0 { // a row on several pages
			for k := range 80 {
				sig, err := store.ParseSignature(fmt.Sprintf("key-%d:%0128d", k, i))
				if err != nil {
					t.Fatal(err)
				}
				info.Signatures = append(info.Signatures, sig)
			}
			info.Signatures = sortSignatures(info.Signatures)
		}
		list = append(list, Registration{Info: info})
	}
	return list
}

func openViewDB(t testing.TB, dir string, o Options) *DB {
	t.Helper()
	o.Dir = viewDir
	db, err := Open(t.Context(), filepath.Join(dir, "db"), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// answers are what a database says about paths.
type answers struct {
	Valid     []storepath.Path
	Infos     []*store.PathInfo
	Referrers [][]storepath.Path
	HashParts []storepath.Path
	Closure   []storepath.Path
	All       []storepath.Path
	AllInfos  []*store.PathInfo
	List      []storepath.Path
}

func askAll(t *testing.T, db *DB, paths []storepath.Path) (a answers) {
	t.Helper()
	ctx := t.Context()
	var errs [8]error
	a.Valid, errs[0] = db.ValidPaths(ctx, paths)
	a.Infos, errs[1] = db.PathInfos(ctx, paths)
	a.Referrers, errs[2] = db.Referrers(ctx, paths)
	for _, p := range paths {
		found, err := db.PathFromHashPart(ctx, p.HashPart())
		a.HashParts, errs[3] = append(a.HashParts, found), errors.Join(errs[3], err)
	}
	a.Closure, errs[4] = db.Closure(ctx, a.Valid[len(a.Valid)-1:], ClosureOptions{})
	more, err := db.Closure(ctx, a.Valid[:1], ClosureOptions{Referrers: true})
	errs[5] = err
	a.Closure = storepath.SortUnique(append(a.Closure, more...))
	for p, err := range db.AllPaths(ctx) {
		a.All, errs[6] = append(a.All, p), errors.Join(errs[6], err)
	}
	for i, err := range db.AllPathInfos(ctx) {
		a.AllInfos, errs[6] = append(a.AllInfos, i), errors.Join(errs[6], err)
	}
	list, err := db.ListPaths(ctx)
	errs[7] = err
	if err == nil {
		a.List = slices.Collect(list.All())
		slices.SortFunc(a.List, storepath.Compare)
	}
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestViewSaysWhatSQLiteSays(t *testing.T) {
	testenv.LongWithRace(t)
	dir := t.TempDir()
	db := openViewDB(t, dir, Options{})
	const n = 5000 // more rows than may be read of pages
	if _, err := db.Load(t.Context(), func(yield func(Registration, error) bool) {
		for _, r := range viewInfos(t, 0, n) {
			if !yield(r, nil) {
				return
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	var paths []storepath.Path
	for i := 0; i < n+400; i += 17 {
		paths = append(paths, viewPath(t, i))
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"with everything in the log", func() error { return nil }},
		{"with an empty log", db.Release},
		{"with new paths in the log", func() error { return db.Register(t.Context(), viewInfos(t, n, 300)) }},
		{"without some", func() error {
			var last []storepath.Path
			for i := n + 200; i < n+300; i++ {
				last = append(last, viewPath(t, i))
			}
			return db.Invalidate(t.Context(), last)
		}},
		{"with another signature", func() error {
			return db.AddSignatures(t.Context(), viewPath(t, 17), []store.Signature{"other:" + store.Signature(fmt.Sprintf("%088d", 7))})
		}},
		{"with a new index", func() error {
			return db.write(t.Context(), "indexing", func(c *conn) error {
				return c.script("drop index IndexReference", "create index another on Refs (reference)", "reindex")
			})
		}},
		{"after vacuum", func() error {
			return db.reading(t.Context(), "vacuum", func(*conn) error {
				c, err := dial(db.file, readWrite, &db.o, false)
				if err != nil {
					return err
				}
				return errors.Join(c.script("vacuum", "pragma wal_checkpoint(truncate)"), c.Close())
			})
		}},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		looks := lookCount.Load()
		got := askAll(t, db, paths)
		if lookCount.Load()-looks < int64(len(paths)) {
			t.Errorf("%s: SQLite was asked", step.name)
		}
		var want answers
		// In the log on purpose: to release all connections would write it back.
		noViews.Store(true)
		want = askAll(t, openViewDB(t, dir, Options{}), paths)
		noViews.Store(false)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the view says something else", step.name)
		}
	}
	looks := lookCount.Load()
	if _, err := db.ListPaths(t.Context()); err != nil || lookCount.Load() == looks {
		t.Errorf("all paths were listed by SQLite, %v", err)
	}
	readOnly := openViewDB(t, dir, Options{ReadOnly: true})
	if err := db.Release(); err != nil { // with a log beside it there is no view
		t.Fatal(err)
	}
	looks = lookCount.Load()
	got := askAll(t, readOnly, paths)
	if lookCount.Load() == looks {
		t.Error("read-only: SQLite was asked")
	}
	if want := askAll(t, db, paths); !reflect.DeepEqual(got, want) {
		t.Error("read-only: the view says something else")
	}
}

// Two paths come and go together, while others ask about them.
func TestViewIsOfOneMoment(t *testing.T) {
	dir := t.TempDir()
	db, writer := openViewDB(t, dir, Options{}), openViewDB(t, dir, Options{NoSync: true})
	if err := db.Register(t.Context(), viewInfos(t, 0, 500)); err != nil {
		t.Fatal(err)
	}
	a, b := viewPath(t, 1000), viewPath(t, 1001)
	pair := []Registration{
		{Info: &store.PathInfo{Path: a, NarHash: nixhash.Of(nixhash.SHA256, "a"), NarSize: 1, References: []storepath.Path{viewPath(t, 3)}}},
		{Info: &store.PathInfo{Path: b, NarHash: nixhash.Of(nixhash.SHA256, "b"), NarSize: 2, References: []storepath.Path{a}}},
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var both, none atomic.Int64
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				infos, err := db.PathInfos(ctx, []storepath.Path{a, viewPath(t, 400), b})
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				switch {
				case infos[0] == nil && infos[2] == nil:
					none.Add(1)
				case infos[0] == nil || infos[2] == nil, infos[2].References[0] != a, infos[0].References[0] != viewPath(t, 3):
					t.Errorf("one of two that come and go together: %v, %v", infos[0], infos[2])
					return
				default:
					both.Add(1)
				}
				if infos[1] == nil || infos[1].NarSize != 400 {
					t.Errorf("a path that never changes: %v", infos[1])
					return
				}
			}
		})
	}
	for i := 0; i < 120 || both.Load() == 0 || none.Load() == 0; i++ {
		err := writer.Register(t.Context(), pair)
		if err == nil && i%10 == 0 { // empties the log, and the next write begins it anew
			err = writer.write(t.Context(), "noting", func(*conn) error { return nil })
			writer.mu.enterAnyway()
			writer.mu.leave()
			_ = writer.reading(t.Context(), "writing back", func(c *conn) error {
				return c.script("pragma wal_checkpoint(restart)") // others may be reading
			})
		}
		if err == nil {
			err = writer.Invalidate(t.Context(), []storepath.Path{a, b})
		}
		if err != nil {
			t.Error(err)
			break
		}
	}
	cancel()
	wg.Wait()
}

func TestPageCacheKeepsWhatIsUsed(t *testing.T) {
	var c pageCache
	for n := uint32(1); n <= 5*maxCached; n++ {
		if b := c.get(n); b != nil {
			t.Fatalf("page %d is there, and nobody has put it there", n)
		}
		b := c.room(n, 4)
		b[0] = byte(n)
		if n > 1 {
			if b := c.get(1); b == nil || b[0] != 1 {
				t.Fatalf("page 1, which is asked for all the time, has gone at page %d", n)
			}
		}
	}
	if len(c.slots) != maxCached || len(c.at) != maxCached {
		t.Errorf("%d pages in %d places where there is room for %d", len(c.at), len(c.slots), maxCached)
	}
	c.drop(1)
	if c.get(1) != nil || len(c.at) != maxCached-1 {
		t.Error("a page that was dropped is there")
	}
	c.clear()
	if len(c.at) != 0 || c.get(5*maxCached) != nil {
		t.Error("pages are there although all were dropped")
	}
}
