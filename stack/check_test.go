package stack

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
)

// foundBy gives the codes and layers of what a check found.
func foundBy(t *testing.T, c *CheckUp, o check.Options) (out []string) {
	t.Helper()
	r, err := c.Check(t.Context(), o)
	if err != nil || len(r.Errors) > 0 {
		t.Fatalf("%v, %v", err, r.Errors)
	}
	for _, f := range r.Findings {
		out = append(out, string(f.Code)+" "+f.Layer)
	}
	slices.Sort(out)
	return out
}

// A stack is checked while it is up and while it is down, and is afterwards as it was.
func TestCheckOfAStack(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		a, b, own := object(t, "a"), object(t, "b"), object(t, "own", object(t, "a").Path())
		cfg := w.config(t, w.lower(t, "base", a), w.lower(t, "more", b))
		s := w.up(t, cfg)
		if err := s.Store.Add(t.Context(), own.Info, own.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
			t.Fatal(err)
		}
		up := func(want ...string) {
			t.Helper()
			c, err := s.Run().OpenToCheck(t.Context(), parts())
			if err != nil {
				t.Fatal(err)
			}
			if got := foundBy(t, c, check.Options{Contents: true}); !slices.Equal(got, want) {
				t.Errorf("up: %q", got)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		up()
		place := filepath.Join(w.path("more"), "nix/store", b.Path().Base())
		if err := os.Remove(place); err != nil {
			t.Fatal(err)
		}
		up("row-without-object more")
		has(t, s, a)

		// Lowers whose databases are away; programs go on.
		databases := []string{filepath.Join(w.path("base"), "nix/var"), filepath.Join(w.path("more"), "nix/var")}
		away := func(there bool) {
			t.Helper()
			for _, dir := range databases {
				from, to := dir, dir+".away"
				if there {
					from, to = to, from
				}
				if err := os.Rename(from, to); err != nil {
					t.Fatal(err)
				}
			}
		}
		away(false)
		up("lower-gone base", "lower-gone more")
		// What is wrong with the upper itself is told all the same.
		spoiled := filepath.Join(w.path("upper/layer"), own.Path().Base())
		spoil := func(contents []byte) {
			t.Helper()
			st, err := os.Stat(spoiled)
			err = errors.Join(err, os.Chmod(spoiled, 0o644), os.WriteFile(spoiled, contents, 0o644), os.Chmod(spoiled, 0o444))
			if err = errors.Join(err, os.Chtimes(spoiled, time.Time{}, st.ModTime())); err != nil {
				t.Fatal(err)
			}
		}
		whole, err := os.ReadFile(spoiled)
		if err != nil {
			t.Fatal(err)
		}
		spoil([]byte("other"))
		up("lower-gone base", "lower-gone more", "object-modified upper")
		spoil(whole)
		away(true)
		up("row-without-object more")
		w.takeDown(t, s)

		down := func(o check.Options, want ...string) {
			t.Helper()
			c, err := resolved(t, cfg).OpenToCheck(t.Context(), parts())
			if err != nil {
				t.Fatal(err)
			}
			if got := foundBy(t, c, o); !slices.Equal(got, want) {
				t.Errorf("down: %q", got)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			w.nothingStays(t)
		}
		away(false)
		down(check.Options{}, "lower-gone base")
		if err := os.WriteFile(filepath.Join(w.path("upper/layer"), "foreign"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		down(check.Options{Contents: true, Repair: true}, "foreign-file upper", "lower-gone base")
		if err := os.Remove(filepath.Join(w.path("upper/layer"), "foreign")); err != nil {
			t.Fatal(err)
		}
		away(true)
		down(check.Options{Contents: true}, "row-without-object more")
		if err := os.WriteFile(filepath.Join(w.path("upper/layer"), "foreign"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		down(check.Options{Repair: true, Layers: []string{"upper"}}, "foreign-file upper")
		down(check.Options{Layers: []string{"upper"}})

		// Another lower in the place of the one that the upper was made for.
		if err := testenv.RemoveAll(w.path("base")); err != nil {
			t.Fatal(err)
		}
		down(check.Options{}, "lower-gone base")
		w.lower(t, "base", object(t, "c"))
		down(check.Options{Layers: []string{"upper"}}, "lower-replaced base", "row-without-object upper")
	})
}

// mountReadOnly makes a directory one of a read-only file system.
func mountReadOnly(t *testing.T, dir string) {
	t.Helper()
	on, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(on)
	d, err := mount.Clone(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := errors.Join(d.SetAttr(unix.MOUNT_ATTR_RDONLY), d.Attach(on)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// An upper that cannot be written to, such as a snapshot, is looked at as it lies.
func TestCheckOfAReadOnlyUpper(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		a, b := object(t, "a"), object(t, "b")
		cfg := w.config(t, w.lower(t, "base", a, b))
		s := w.up(t, cfg)
		addTo(t, s.Store, object(t, "own", a.Path()))
		w.takeDown(t, s)
		if err := os.WriteFile(w.path("upper/layer/foreign"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		other, err := flock.Open(w.path("upper/lock"))
		if err != nil {
			t.Fatal(err)
		}
		mountReadOnly(t, w.path("upper"))
		before := tree(t, w.dir)
		var said testenv.Lines
		ctx := activity.With(t.Context(), &said)
		look := func(o check.Options, want ...string) {
			t.Helper()
			c, err := resolved(t, cfg).OpenToCheck(ctx, parts())
			if err != nil {
				t.Fatal(err)
			}
			if got := foundBy(t, c, o); !slices.Equal(got, want) {
				t.Errorf("%q", got)
			}
			if _, err := c.Check(ctx, check.Options{Repair: true}); !errors.Is(err, store.ErrReadOnly) && !slices.Contains(want, "lower-gone base") {
				t.Errorf("repaired: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		look(check.Options{Contents: true}, "foreign-file upper")
		if got := said.UpTo(activity.Warn); len(got) != 1 || !strings.Contains(got[0], "read-only file system: its database cannot be locked") {
			t.Errorf("warned: %q", got)
		}
		if got := tree(t, w.dir); !slices.Equal(got, before) {
			t.Errorf("%q is not\n%q", got, before)
		}
		// It is compared with its lowers.
		for _, o := range []storetest.Object{a, b} {
			if err := os.Remove(filepath.Join(w.path("base"), "nix/store", o.Path().Base())); err != nil {
				t.Fatal(err)
			}
		}
		look(check.Options{}, "foreign-file upper", "lower-object-missing base", "row-without-object base")
		// While somebody has it, or a lower is gone, it is as with any other.
		if ok, err := other.Try(flock.Exclusive); err != nil || !ok {
			t.Fatal(ok, err)
		}
		if _, err := resolved(t, cfg).OpenToCheck(ctx, parts()); !errors.Is(err, ErrInUse) {
			t.Errorf("in use: %v", err)
		}
		if err := errors.Join(other.Close(), os.Rename(w.path("base/nix/var"), w.path("base/nix/away"))); err != nil {
			t.Fatal(err)
		}
		look(check.Options{}, "foreign-file upper", "lower-gone base")
	})
}

// While a stack is checked aside nobody brings it up.
func TestCheckAsideHoldsTheUpper(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		cfg := w.config(t, w.lower(t, "base", object(t, "a")))
		w.takeDown(t, w.up(t, cfg))
		c, err := resolved(t, cfg).OpenToCheck(t.Context(), parts())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Assemble(t.Context(), resolved(t, cfg), parts()); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("%v", err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		w.nothingStays(t)
	})
}

// Before a repair has the upper lean on more of a lower, the owner of that is told, whether the stack
// is up or down.
func TestRepairTellsOwnersOfLowers(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		one, two := object(t, "one"), object(t, "two")
		base := w.lower(t, "base", object(t, "a"))
		place := w.optIn(t, base)
		cfg := w.config(t, base)
		cfg.Consumer = "me"
		s := w.up(t, cfg)
		repair := func(open func() (*CheckUp, error), dup storetest.Object, want ...string) {
			t.Helper()
			w.lower(t, "base", dup)
			c, err := open()
			if err != nil {
				t.Fatal(err)
			}
			if got := foundBy(t, c, check.Options{Repair: true, Layers: []string{"upper"}}); len(got) == 0 {
				t.Error("no duplicate was found")
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if got := rootsIn(t, filepath.Join(place, "me")); !slices.Equal(got, want) {
				t.Errorf("registered: %q, want %q", got, want)
			}
			if left := inLayer(t, &s.Config); slices.Contains(left, dup.Path().Name()) {
				t.Errorf("left in the upper: %q", left)
			}
		}
		addTo(t, s.Store, one, two)
		repair(func() (*CheckUp, error) { return s.Run().OpenToCheck(t.Context(), parts()) }, one, one.Path().Base())
		w.takeDown(t, s)
		both := []string{one.Path().Base(), two.Path().Base()}
		slices.Sort(both)
		repair(func() (*CheckUp, error) { return resolved(t, cfg).OpenToCheck(t.Context(), parts()) }, two, both...)
		w.nothingStays(t)
	})
}
