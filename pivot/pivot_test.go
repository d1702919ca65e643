package pivot_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/pivot"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// What the upper needs and the new lower lacks comes up, with all that it refers to; what the
// new lower has too goes; what nothing needs loses its row.
func TestNewRelease(t *testing.T) {
	w := newWorld(t)
	libc, lib, tool, idle := tree(t, "libc"), tree(t, "lib", tree(t, "libc")), file(t, "tool"), file(t, "idle")
	mine := tree(t, "mine", lib, tool)
	dup := tree(t, "dup", tool)
	w.lower("old", libc, lib, tool, idle)
	w.rows(libc, lib, tool, idle)
	w.own(mine, dup)
	w.lower("new", tool, dup, file(t, "fresh"))
	old, new := w.openLowers("old"), w.openLowers("new")

	p := run(t, w.parts(old, new), pivot.Options{})
	if got := p.CopyTally(); got.Objects != 2 || got.NarBytes != libc.Info.NarSize+lib.Info.NarSize {
		t.Errorf("copied %+v", got)
	}
	if p.Kept.Objects != 1 || len(p.Duplicates) != 1 || len(p.Dropped) != 1 || p.Dropped[0] != idle.Path() {
		t.Errorf("%+v", p)
	}
	w.wantHolds("lib", "libc", "mine")
	w.wantRows("dup", "lib", "libc", "mine", "tool")
	w.sound(new)

	// And again there is nothing to do.
	if p := mustPlan(t, w.parts(nil, new), pivot.Options{}); !p.Empty() {
		t.Errorf("something is left: %+v", p)
	}
}

func TestOneLowerMoreAndFewer(t *testing.T) {
	w := newWorld(t)
	a, b := tree(t, "a"), tree(t, "b")
	mine := file(t, "mine", a, b)
	w.lower("one", a)
	w.lower("two", b)
	w.rows(a, b)
	w.own(mine)
	both := w.openLowers("one", "two")
	run(t, w.parts(both, both[:1]), pivot.Options{})
	w.wantHolds("b", "mine")
	w.sound(both[:1])
	run(t, w.parts(both[:1], both), pivot.Options{})
	w.wantHolds("mine")
	w.sound(both)
}

// A path whose contents differ stays as it is where the upper has it, and is taken from the new
// lower where the upper only leans on it.
func TestConflicts(t *testing.T) {
	w := newWorld(t)
	leaned, own, dep := tree(t, "leaned"), tree(t, "own"), file(t, "dep")
	leaned2, own2 := other(t, leaned, dep), other(t, own)
	mine := file(t, "mine", leaned, own)
	w.lower("old", leaned)
	w.rows(leaned)
	w.own(own, mine)
	w.lower("new", dep, leaned2, own2)
	new := w.openLowers("new")
	p := run(t, w.parts(w.openLowers("old"), new), pivot.Options{})
	if len(p.Conflicts) != 2 || len(p.Changed) != 1 || len(p.Added) != 1 || len(p.Copies) != 0 {
		t.Errorf("%+v", p)
	}
	for _, c := range p.Conflicts {
		if c.Own != (c.Path == own.Path()) || c.Lower != "new" {
			t.Errorf("%+v", c)
		}
	}
	w.wantHolds("mine", "own")
	w.wantRows("dep", "leaned", "mine", "own")
	w.sound(new)
}

// The stale database of an upper over an image that was replaced: what it had is not to be had
// any more.
func TestOldLowerIsGone(t *testing.T) {
	w := newWorld(t)
	lib, tool := tree(t, "lib"), tree(t, "tool")
	app, mine, alone := tree(t, "app", lib), tree(t, "mine", tree(t, "app", lib)), tree(t, "alone", tool)
	w.rows(lib, tool)
	w.own(app, mine, alone)
	link := w.root("mine", mine.Path())
	w.lower("new", tool)
	new := w.openLowers("new")
	parts := w.parts(nil, new)
	parts.Gone = []string{"old"}
	_, err := pivot.Make(t.Context(), parts, pivot.Options{})
	var missing *pivot.MissingError
	if !errors.As(err, &missing) || len(missing.Missing) != 1 || missing.Missing[0].Path != lib.Path() || missing.Missing[0].By.IsZero() {
		t.Fatalf("%v", err)
	}
	w.wantHolds("alone", "app", "mine")

	// Somewhere else it is still to be had.
	w.lower("elsewhere", lib)
	from := w.openLowers("elsewhere")[0]
	withSource := parts
	withSource.Sources = func(ctx context.Context) ([]pivot.Source, error) {
		return []pivot.Source{{Name: "elsewhere", Store: from.Store.(store.Store)}}, nil
	}
	if p := mustPlan(t, withSource, pivot.Options{}); len(p.Copies) != 1 || p.Copies[0].From != "elsewhere" {
		t.Errorf("%+v", p)
	}

	// While somebody who may have it does not answer, it is not dropped.
	for _, silent := range []pivot.Source{{Name: "silent", Err: errors.New("no such host")}, {Name: "silent", Store: refusing{from.Store.(store.Store)}}} {
		withSource.Sources = func(ctx context.Context) ([]pivot.Source, error) { return []pivot.Source{silent}, nil }
		if _, err := pivot.Make(t.Context(), withSource, pivot.Options{DropMissing: true}); !errors.Is(err, store.ErrInconclusive) || !strings.Contains(err.Error(), "'silent' could not be asked") || !strings.Contains(err.Error(), "--option substituters") {
			t.Errorf("%v", err)
		}
		if _, err := pivot.Make(t.Context(), withSource, pivot.Options{}); !errors.As(err, &missing) {
			t.Errorf("%v", err)
		}
		withSource.Sources = func(ctx context.Context) ([]pivot.Source, error) {
			return []pivot.Source{silent, {Name: "elsewhere", Store: from.Store.(store.Store)}}, nil
		}
		if p := mustPlan(t, withSource, pivot.Options{DropMissing: true}); len(p.Copies) != 1 || len(p.Missing) != 0 {
			t.Errorf("%+v", p)
		}
	}

	// Without it goes, with what refers to it.
	p := run(t, parts, pivot.Options{DropMissing: true})
	if len(p.Missing) != 1 || len(p.Removed) != 2 || len(p.LostRoots) != 1 || !p.LostRoots[0].Removed {
		t.Errorf("%+v", p)
	}
	if _, err := os.Lstat(link); err == nil {
		t.Error("the root is still there")
	}
	w.wantHolds("alone")
	w.wantRows("alone", "tool")
	w.sound(new)
}

// refusing is a store that does not answer.
type refusing struct{ store.Store }

func (refusing) PathInfos(context.Context, []storepath.Path) ([]*store.PathInfo, error) {
	return nil, errors.New("no route to host")
}

func TestCopiedFromElsewhere(t *testing.T) {
	w := newWorld(t)
	lib := tree(t, "lib")
	w.rows(lib)
	w.own(tree(t, "mine", lib))
	w.lower("new")
	w.lower("elsewhere", lib)
	new, from := w.openLowers("new"), w.openLowers("elsewhere")[0]
	parts := w.parts(nil, new)
	parts.Sources = func(ctx context.Context) ([]pivot.Source, error) {
		return []pivot.Source{{Name: "elsewhere", Store: from.Store.(store.Store)}}, nil
	}
	run(t, parts, pivot.Options{})
	w.wantHolds("lib", "mine")
	w.sound(new)
}

// A gc root may lead to a lower's object that the upper's database knows nothing of.
func TestRootsIntoLowers(t *testing.T) {
	for _, drop := range []bool{false, true} {
		w := newWorld(t)
		lib, app, used, known := tree(t, "lib"), tree(t, "app", tree(t, "lib")), file(t, "used"), file(t, "known")
		w.lower("old", lib, app, used, known)
		w.rows(known)
		link, outside := w.root("app", app.Path()), w.path("result")
		w.root("known", known.Path())
		w.links[app.Path()] = append(w.links[app.Path()], outside)
		w.inUse[used.Path()] = []string{"/proc/1/exe"}
		w.lower("new", lib)
		new := w.openLowers("new")
		p := run(t, w.parts(w.openLowers("old"), new), pivot.Options{DropRoots: drop})
		_, err := os.Lstat(link)
		if !drop {
			w.wantHolds("app", "known", "used")
			w.wantRows("app", "known", "lib", "used")
			if err != nil || len(p.LostRoots) != 0 {
				t.Errorf("%v, %+v", err, p.LostRoots)
			}
		} else {
			w.wantHolds("used") // by a process
			w.wantRows("used")
			if err == nil || len(p.LostRoots) != 3 {
				t.Errorf("%v, %+v", err, p.LostRoots)
			}
		}
		w.sound(new)
	}
}

func TestOnlyWhatIsLive(t *testing.T) {
	w := newWorld(t)
	a, b := tree(t, "a"), tree(t, "b")
	live, dead, whole := file(t, "live", a), file(t, "dead", b), file(t, "whole")
	w.lower("old", a, b)
	w.rows(a, b)
	w.own(live, dead, whole)
	w.root("live", live.Path())
	w.lower("new")
	new := w.openLowers("new")
	p := run(t, w.parts(w.openLowers("old"), new), pivot.Options{OnlyLive: true})
	if len(p.Removed) != 1 || len(p.Copies) != 1 {
		t.Errorf("%+v", p)
	}
	w.wantHolds("a", "live", "whole")
	w.wantRows("a", "live", "whole")
	w.sound(new)
}

// Marks of OverlayFS that mean something only over the old lowers do not stay, and what hides
// objects of the new ones neither.
func TestLayerIsBroughtInLine(t *testing.T) {
	w := newWorld(t)
	born, copied, meta, fresh, shadowed := tree(t, "born"), tree(t, "copied"), tree(t, "meta"), tree(t, "fresh"), tree(t, "shadowed")
	linked := tree(t, "linked")
	w.lower("old", copied, meta)
	w.rows(born, copied, meta, linked)
	w.unpack(born, false)  // under a mount without xino=on
	w.unpack(linked, true) // with a file that is linked with one of a lower
	w.setxattr(filepath.Join(w.inLayer(linked), "share"), "impure", "y")
	w.setxattr(filepath.Join(w.inLayer(linked), "share/doc"), "origin", "\x00\xfb\x00")
	// Of copied only what somebody touched is there, of meta only the directory.
	if err := os.MkdirAll(filepath.Join(w.inLayer(copied), "share"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.setxattr(w.inLayer(copied), "origin", "\x00\xfb\x00")
	if err := os.MkdirAll(w.inLayer(meta), 0o755); err != nil {
		t.Fatal(err)
	}
	w.setxattr(w.inLayer(meta), "redirect", "elsewhere")
	w.root("copied", copied.Path())
	w.root("meta", meta.Path())
	w.setxattr(w.path("layer"), "origin", "\x00\xfb\x00")
	w.whiteout(fresh.Path().Base())
	w.whiteout(other(t, fresh).Path().Base() + "x")
	w.unpack(shadowed, true) // without a row
	if err := os.MkdirAll(w.path("work/index"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.lower("new", fresh, other(t, born), shadowed, meta)
	new := w.openLowers("new")
	for _, dir := range []string{w.path("layer"), new[0].Dir} { // others are at work in both
		if err := os.MkdirAll(filepath.Join(dir, gc.TempName, "1-1"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	p := run(t, w.parts(w.openLowers("old"), new), pivot.Options{})
	if len(p.Parts) != 2 || len(p.Hiding) != 1 || len(p.Whiteouts) != 2 || len(p.Merged) != 1 || len(p.Bound) != 1 || len(p.Copies) != 1 {
		t.Errorf("%+v", p)
	}
	if err := os.Remove(filepath.Join(w.path("layer"), gc.TempName, "1-1")); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(w.path("layer"), gc.TempName)); err != nil {
		t.Error(err)
	}
	w.wantHolds("born", "copied", "linked")
	w.sound(new)
	for _, o := range []string{w.path("layer"), w.inLayer(born), w.inLayer(linked), w.inLayer(copied)} {
		if b, err := overlayfs.Bindings(t.Context(), o); err != nil || b != 0 && o != w.path("layer") {
			t.Errorf("%s: %v, %v", o, b, err)
		}
	}
	if origin, err := overlayfs.HasOrigin(w.path("layer")); origin || err != nil {
		t.Errorf("the layer has an origin: %v", err)
	}
	if _, err := os.Lstat(w.path("work/index")); err == nil {
		t.Error("the index of the old mount is still there")
	}
	if p := mustPlan(t, w.parts(nil, new), pivot.Options{}); !p.Empty() {
		t.Errorf("something is left: %+v", p)
	}
}

// An old lower's object that is not what it should be is not copied.
func TestDamagedOldLower(t *testing.T) {
	w := newWorld(t)
	lib := tree(t, "lib")
	mine := file(t, "mine", lib)
	w.lower("old", lib)
	w.rows(lib)
	w.own(mine)
	w.lower("new")
	old, new := w.openLowers("old"), w.openLowers("new")
	spoil(t, filepath.Join(old[0].Dir, lib.Path().Base(), "share/doc"))
	parts := w.parts(old, new)
	p := mustPlan(t, parts, pivot.Options{})
	job, err := pivot.Begin(t.Context(), parts, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = job.Stage(t.Context())
	var missing *pivot.MissingError
	if !errors.As(err, &missing) || !errors.Is(missing.Missing[0].Why, store.ErrMismatch) {
		t.Fatalf("%v", err)
	}
	if err := job.Commit(t.Context()); err == nil {
		t.Error("committed without the copy")
	}
	if err := job.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wantHolds("mine")
	w.wantRows("lib", "mine")
	w.nothingLiesAbout()
	parts.Unreadable = map[storepath.Path]error{lib.Path(): missing.Missing[0].Why}
	if _, err := pivot.Make(t.Context(), parts, pivot.Options{}); !errors.As(err, &missing) || missing.Missing[0].Why == nil {
		t.Errorf("%v", err)
	}
	run(t, parts, pivot.Options{DropMissing: true})
	w.wantHolds()
	w.wantRows()
	w.sound(new)
}

// A lower that cannot be asked is no lower that has nothing.
func TestCouldNotTell(t *testing.T) {
	w := newWorld(t)
	lib := tree(t, "lib")
	w.lower("old", lib)
	w.rows(lib)
	w.own(file(t, "mine", lib))
	w.lower("new", lib)
	old, new := w.openLowers("old"), w.openLowers("new")
	db := w.path("new/nix/var/nix/db/db.sqlite")
	if err := os.Truncate(db, 100); err != nil {
		t.Fatal(err)
	}
	if p, err := pivot.Make(t.Context(), w.parts(old, new), pivot.Options{DropMissing: true, DropRoots: true}); err == nil {
		t.Errorf("planned %+v", p)
	}
	w.wantHolds("mine")
}

func TestOneJobAtATime(t *testing.T) {
	w := newWorld(t)
	w.lower("new")
	parts := w.parts(nil, w.openLowers("new"))
	p := mustPlan(t, parts, pivot.Options{})
	if _, err := pivot.Begin(t.Context(), parts, p, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := pivot.Begin(t.Context(), parts, p, nil); !errors.Is(err, pivot.ErrUnderWay) {
		t.Errorf("%v", err)
	}
	h, err := pivot.Peek(parts.Journal)
	if err != nil || h.Phase != pivot.Planned || len(h.New) != 1 {
		t.Errorf("%+v, %v", h, err)
	}
	job, err := pivot.Open(parts)
	if err == nil {
		err = goOn(t.Context(), job)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := job.Rollback(t.Context()); !errors.Is(err, pivot.ErrCommitted) {
		t.Errorf("%v", err)
	}
	if _, err := pivot.Open(parts); !errors.Is(err, pivot.ErrNoJob) {
		t.Errorf("%v", err)
	}
}

func spoil(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.Chmod(path, 0o644)
	}
	if err == nil {
		data[0] ^= 1
		err = os.WriteFile(path, data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
