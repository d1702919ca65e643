package pivot_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/pivot"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// sized is a file whose archive takes so many bytes, a multiple of 8 from 120 on: 112 for what is
// around the contents.
func sized(t *testing.T, name string, bytes int, refs ...storetest.Object) storetest.Object {
	t.Helper()
	o := storetest.File(t, dir, name, strings.Repeat(name[:1], bytes-112), paths(refs)...).Plain(t, dir, false)
	if o.Info.NarSize != uint64(bytes) {
		t.Fatalf("%s takes %d bytes", name, o.Info.NarSize)
	}
	return o
}

// numbersWorld is an upper over one lower.
//
//	lower: base (200), lib (304) -> base, tool (400), idle (504), stranger (600), of which the upper has no row
//	upper: app (1000) -> lib, tool; dup (2000) -> tool; lone (3000)
type numbersWorld struct {
	*world
	base, lib, tool, idle, stranger, app, dup, lone storetest.Object
}

func newNumbersWorld(t *testing.T) *numbersWorld {
	w := &numbersWorld{world: newWorld(t)}
	w.base = sized(t, "base", 200)
	w.lib = sized(t, "lib", 304, w.base)
	w.tool, w.idle, w.stranger = sized(t, "tool", 400), sized(t, "idle", 504), sized(t, "stranger", 600)
	w.app = sized(t, "app", 1000, w.lib, w.tool)
	w.dup, w.lone = sized(t, "dup", 2000, w.tool), sized(t, "lone", 3000)
	w.lower("old", w.base, w.lib, w.tool, w.idle, w.stranger)
	w.rows(w.base, w.lib, w.tool, w.idle)
	w.own(w.app, w.dup, w.lone)
	return w
}

// numbers are those of a plan, but for what is 0.
type numbers struct {
	kept, copied, duplicates, removed       pivot.Tally
	changed, added, dropped                 int // rows
	lostRoots, removedRoots                 int
	whiteouts, hiding, parts, bound, merged int
	conflicts, missing                      int
}

func numbersOf(r *pivot.Report) numbers {
	return numbers{
		kept: r.Kept, copied: r.Copied, duplicates: r.Duplicates, removed: r.Removed,
		changed: r.Rows.Changed, added: r.Rows.Added, dropped: r.Rows.Dropped,
		lostRoots: r.Roots.Lost, removedRoots: r.Roots.Removed,
		whiteouts: r.Layer.Whiteouts, hiding: r.Layer.Hiding, parts: r.Layer.Parts, bound: r.Layer.Bound, merged: r.Layer.Merged,
		conflicts: len(r.Conflicts), missing: len(r.Missing),
	}
}

func tally(objects int, bytes uint64) pivot.Tally {
	return pivot.Tally{Objects: objects, NarBytes: bytes}
}

// Every number of a plan is what one counts by hand, and what is done afterwards comes to the same.
func TestNumbersOfPlans(t *testing.T) {
	for name, c := range map[string]struct {
		before func(w *numbersWorld)
		new    func(w *numbersWorld) []storetest.Object
		o      pivot.Options
		gone   bool
		want   numbers
	}{
		"the new lower has all that the old one has": {
			new: func(w *numbersWorld) []storetest.Object {
				return []storetest.Object{w.base, w.lib, w.tool, w.idle, w.stranger}
			},
			want: numbers{kept: tally(3, 6000)},
		},
		"it has nothing": {
			new:  func(*numbersWorld) []storetest.Object { return nil },
			want: numbers{kept: tally(3, 6000), copied: tally(3, 904), dropped: 1},
		},
		"it has some of the upper's objects": {
			new: func(w *numbersWorld) []storetest.Object {
				return []storetest.Object{w.base, w.lib, w.tool, w.idle, w.app, w.dup}
			},
			want: numbers{kept: tally(1, 3000), duplicates: tally(2, 3000)},
		},
		"it has some of both": {
			new:  func(w *numbersWorld) []storetest.Object { return []storetest.Object{w.tool, w.dup} },
			want: numbers{kept: tally(2, 4000), duplicates: tally(1, 2000), copied: tally(2, 504), dropped: 1},
		},
		"roots lead to objects of the old lower": {
			before: func(w *numbersWorld) { w.root("idle", w.idle.Path()); w.root("stranger", w.stranger.Path()) },
			new:    func(*numbersWorld) []storetest.Object { return nil },
			want:   numbers{kept: tally(3, 6000), copied: tally(5, 2008), added: 1},
		},
		"roots are dropped": {
			before: func(w *numbersWorld) {
				w.root("idle", w.idle.Path())
				w.root("stranger", w.stranger.Path())
				w.root("app", w.app.Path())
				w.links[w.idle.Path()] = append(w.links[w.idle.Path()], "/home/somebody/result")
			},
			new:  func(*numbersWorld) []storetest.Object { return nil },
			o:    pivot.Options{DropRoots: true},
			want: numbers{kept: tally(3, 6000), copied: tally(3, 904), dropped: 1, lostRoots: 3, removedRoots: 2},
		},
		"only what is live": {
			before: func(w *numbersWorld) { w.root("dup", w.dup.Path()) },
			new:    func(*numbersWorld) []storetest.Object { return nil },
			o:      pivot.Options{OnlyLive: true},
			want:   numbers{kept: tally(2, 5000), copied: tally(1, 400), removed: tally(1, 1000), dropped: 3},
		},
		"other contents": {
			new: func(w *numbersWorld) []storetest.Object {
				dep := sized(w.t, "dep", 160)
				return []storetest.Object{dep, w.base, w.tool, other(w.t, w.lib, dep), other(w.t, w.lone)}
			},
			want: numbers{kept: tally(3, 6000), changed: 1, added: 1, dropped: 1, conflicts: 2},
		},
		"the old lower is gone": {
			before: func(w *numbersWorld) { w.root("app", w.app.Path()); w.root("lone", w.lone.Path()) },
			new:    func(w *numbersWorld) []storetest.Object { return []storetest.Object{w.tool} },
			o:      pivot.Options{DropMissing: true},
			gone:   true,
			want: numbers{
				kept: tally(2, 5000), removed: tally(1, 1000), missing: 2,
				dropped: 3, lostRoots: 1, removedRoots: 1,
			},
		},
		"the layer is not as it should be": {
			before: func(w *numbersWorld) {
				w.whiteout(w.tool.Path().Base())
				w.unpack(w.stranger, true) // which is not valid in the upper
				tree := tree(w.t, "tree")
				w.rows(tree)
				w.unpack(tree, false)
			},
			new: func(w *numbersWorld) []storetest.Object {
				return []storetest.Object{w.base, w.lib, w.tool, w.idle, w.stranger}
			},
			want: numbers{kept: pivot.Tally{Objects: 4}, whiteouts: 1, hiding: 1, merged: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newNumbersWorld(t)
			if c.before != nil {
				c.before(w)
			}
			w.lower("new", c.new(w)...)
			new := w.openLowers("new")
			var parts pivot.Parts
			if c.gone {
				parts = w.parts(nil, new)
				parts.Gone = []string{"old"}
			} else {
				parts = w.parts(w.openLowers("old"), new)
			}
			rows := w.count()
			p := run(t, parts, c.o)
			r := p.Report(dir)
			got := numbersOf(r)
			if c.want.kept.NarBytes == 0 {
				got.kept.NarBytes = 0 // one of the objects is a tree
			}
			if got != c.want {
				t.Errorf("the plan is\n%+v, want\n%+v", got, c.want)
			}
			w.amounts(r, rows)
			w.sound(new)
		})
	}
}

// count is how many rows there are.
func (w *numbersWorld) count() (n int) {
	w.t.Helper()
	for _, err := range w.openDB().AllPaths(w.t.Context()) {
		if err != nil {
			w.t.Fatal(err)
		}
		n++
	}
	return n
}

// amounts compares what there is now with a plan that was carried out.
func (w *numbersWorld) amounts(r *pivot.Report, rows int) {
	w.t.Helper()
	objects := 0
	for _, name := range w.holds() {
		if _, err := storepath.ParseBase(name); err == nil || !strings.HasPrefix(name, ".") {
			objects++
		}
	}
	if want := r.Kept.Objects + r.Copied.Objects; objects != want {
		w.t.Errorf("the layer has %d objects, and the plan says %d", objects, want)
	}
	if got, want := w.count(), rows+r.Rows.Added-r.Rows.Dropped-r.Removed.Objects; got != want {
		w.t.Errorf("there are %d rows, and the plan says %d", got, want)
	}
	links, err := os.ReadDir(filepath.Join(w.path("state"), "gcroots"))
	if err != nil {
		w.t.Fatal(err)
	}
	all := 0
	for _, of := range w.links {
		for _, link := range of {
			if strings.HasPrefix(link, w.path("state")) {
				all++
			}
		}
	}
	if len(links) != all-r.Roots.Removed {
		w.t.Errorf("there are %d roots of %d, and the plan says that %d go", len(links), all, r.Roots.Removed)
	}
}
