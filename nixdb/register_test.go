package nixdb_test

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// both registers by Register and by Load, which must mean the same. padded adds so
// many other paths that Load goes its own way.
func both(t *testing.T, f func(t *testing.T, put func(db *nixdb.DB, infos ...*store.PathInfo) error)) {
	t.Run("Register", func(t *testing.T) {
		f(t, func(db *nixdb.DB, infos ...*store.PathInfo) error { return db.Register(t.Context(), regs(infos...)) })
	})
	t.Run("Load", func(t *testing.T) {
		f(t, func(db *nixdb.DB, infos ...*store.PathInfo) error {
			_, err := db.Load(t.Context(), padded(infos))
			return err
		})
	})
}

const padding = 250 // more than Load reads at once here

// padded puts half of infos before and half after many others.
func padded(infos []*store.PathInfo) iter.Seq2[nixdb.Registration, error] {
	return func(yield func(nixdb.Registration, error) bool) {
		for _, r := range regs(infos[:len(infos)/2]...) {
			if !yield(r, nil) {
				return
			}
		}
		for i := range padding {
			if !yield(nixdb.Registration{Info: info(fmt.Sprintf("padding-%d", i))}, nil) {
				return
			}
		}
		for _, r := range regs(infos[len(infos)/2:]...) {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func TestMissingReferenceIsNamed(t *testing.T) {
	both(t, func(t *testing.T, put func(*nixdb.DB, ...*store.PathInfo) error) {
		db, _ := newDB(t, info("there"))
		err := put(db, info("a", "there"), info("b", "there", "missing"))
		var invalid *store.InvalidPathError
		if !errors.As(err, &invalid) || invalid.Path != dir.Print(path("missing")) || invalid.By != dir.Print(path("b")) {
			t.Fatalf("got %v", err)
		}
		if n := len(allPaths(t, db)); n != 1 {
			t.Errorf("%d paths are valid", n)
		}
		healthy(t, db)
	})
}

func TestCycleIsNamed(t *testing.T) {
	both(t, func(t *testing.T, put func(*nixdb.DB, ...*store.PathInfo) error) {
		db, _ := newDB(t)
		err := put(db, info("leaf"), info("a", "b", "leaf"), info("b", "c"), info("user", "a"), info("c", "a", "c"))
		var cycle *nixdb.CycleError
		if !errors.As(err, &cycle) {
			t.Fatalf("got %v", err)
		}
		want := dir.PrintAll(paths("a", "b", "c"))
		got := slices.Clone(cycle.Paths)
		for range 3 { // it may begin anywhere
			if slices.Equal(got, want) {
				break
			}
			got = append(got[1:], got[0])
		}
		if !slices.Equal(got, want) {
			t.Errorf("cycle of %v", cycle.Paths)
		}
		if n := len(allPaths(t, db)); n != 0 {
			t.Errorf("%d paths are valid", n)
		}
	})
}

func TestReferencesMayComeLater(t *testing.T) {
	both(t, func(t *testing.T, put func(*nixdb.DB, ...*store.PathInfo) error) {
		db, _ := newDB(t, info("there"))
		want := []*store.PathInfo{info("top", "middle", "there"), info("middle", "bottom", "middle"), info("bottom", "there")}
		if err := put(db, want...); err != nil {
			t.Fatal(err)
		}
		got, err := db.PathInfos(t.Context(), paths("top", "middle", "bottom"))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, comparable); d != "" {
			t.Error(d)
		}
		healthy(t, db)
	})
}

func TestRegisteringAgainUpdates(t *testing.T) {
	both(t, func(t *testing.T, put func(*nixdb.DB, ...*store.PathInfo) error) {
		db, _ := newDB(t, info("lib"), info("tool"))
		again := info("tool", "lib")
		again.NarSize, again.Registered = 99, 17
		if err := put(db, again); err != nil {
			t.Fatal(err)
		}
		again.Registered = info("tool").Registered // stays
		got, err := db.PathInfos(t.Context(), paths("tool"))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]*store.PathInfo{again}, got, comparable); d != "" {
			t.Error(d)
		}
	})
}

func TestPathThatComesTwiceInOneLoad(t *testing.T) {
	both(t, func(t *testing.T, put func(*nixdb.DB, ...*store.PathInfo) error) {
		db, _ := newDB(t)
		if err := put(db, info("lib"), info("tool"), info("tool", "lib")); err != nil {
			t.Fatal(err)
		}
		// A cycle over two registrations of one path is one.
		err := put(db, info("x", "y"), info("y", "x"), info("x"))
		var cycle *nixdb.CycleError
		if !errors.As(err, &cycle) {
			t.Errorf("got %v", err)
		}
		healthy(t, db)
	})
}

func TestContentAddressMustHold(t *testing.T) {
	db, _ := newDB(t)
	wrong := info("wrong")
	wrong.CA = storepath.ContentAddress{Method: storepath.Recursive, Hash: wrong.NarHash}
	err := db.Register(t.Context(), regs(wrong))
	var ca *nixdb.ContentAddressError
	if !errors.As(err, &ca) || ca.Path != dir.Print(wrong.Path) {
		t.Errorf("got %v", err)
	}
	none := info("none")
	none.NarHash = nixhash.Hash{}
	if err := db.Register(t.Context(), regs(none)); err == nil {
		t.Error("a path without a hash is taken")
	}
}

func TestErrorOfTheInputUndoesTheLoad(t *testing.T) {
	db, _ := newDB(t)
	bad := errors.New("input ends here")
	for _, after := range []int{0, 10, 150, 900} {
		n := 0
		_, err := db.Load(t.Context(), func(yield func(nixdb.Registration, error) bool) {
			for r := range synthetic(1000, false) {
				if n++; n > after {
					yield(nixdb.Registration{}, bad)
					return
				}
				if !yield(r, nil) {
					return
				}
			}
		})
		if !errors.Is(err, bad) {
			t.Errorf("after %d: %v", after, err)
		}
		if n := len(allPaths(t, db)); n != 0 {
			t.Errorf("after %d: %d paths are valid", after, n)
		}
	}
	healthy(t, db)
	register(t, db, info("a")) // the connection is in order again
}

// A big load in any order leaves what small registrations leave.
func TestLoadInAnyOrder(t *testing.T) {
	var all []nixdb.Registration
	for r := range synthetic(3000, false) {
		all = append(all, r)
	}
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	want := map[storepath.Path]*store.PathInfo{}
	for _, r := range all {
		want[r.Info.Path] = r.Info
	}
	db, _ := newDB(t)
	n, err := db.Load(t.Context(), func(yield func(nixdb.Registration, error) bool) {
		for _, r := range all {
			if !yield(r, nil) {
				return
			}
		}
	})
	if err != nil || n != len(all) {
		t.Fatal(n, err)
	}
	got := map[storepath.Path]*store.PathInfo{}
	for i, err := range db.AllPathInfos(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got[i.Path] = i
	}
	if d := cmp.Diff(want, got, comparable); d != "" {
		t.Error(d[:min(len(d), 2000)])
	}
	healthy(t, db)
}
