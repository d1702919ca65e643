package overlay_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
)

// checked is a layered store with some objects that is about to be damaged.
type checked struct {
	*world
	o     overlay.Options
	chain []storetest.Object // the first two are in the lower, the others in the upper
	tree  storetest.Object   // in the lower, and needed by own
	own   storetest.Object   // in the upper
	spare storetest.Object   // in the second lower only, and needed by own
	free  storetest.Object   // in the lower, and not needed
}

func newChecked(t *testing.T) *checked {
	t.Helper()
	c := &checked{chain: storetest.Chain(t, storepath.DefaultDir, 4)}
	c.tree = storetest.Tree(t, storepath.DefaultDir, "tree", map[string]string{"bin/x": "x", "share/y": "y"})
	c.spare = storetest.Tree(t, storepath.DefaultDir, "spare", map[string]string{"z": "z"})
	c.free = storetest.Tree(t, storepath.DefaultDir, "free", map[string]string{"f": "f"})
	c.own = storetest.Tree(t, storepath.DefaultDir, "own", map[string]string{"bin/own": "own"}, c.tree.Path(), c.spare.Path())
	c.world = newWorld(t, 2, func(i int, s *local.Store) {
		if i == 0 {
			addTo(t, s, c.chain[0], c.chain[1], c.tree, c.free)
		} else {
			addTo(t, s, c.spare)
		}
	})
	cache, err := local.Open(t.Context(), local.Options{Root: testenv.Scratch(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cache.Close() })
	addTo(t, cache, append(slices.Clone(c.chain), c.tree, c.spare)...)
	c.o = c.options()
	c.o.Upper.Substituters = []string{"memory://cache"}
	c.o.Upper.Pool = substitute.NewPool(func(context.Context, string) (store.Store, error) { return cache.Own(), nil })
	c.with(t, func(s *overlay.Store) { addTo(t, s, c.chain[2], c.chain[3], c.own) })
	return c
}

// with opens the store for a while.
func (c *checked) with(t *testing.T, do func(*overlay.Store)) {
	t.Helper()
	s, err := overlay.Open(t.Context(), c.o, c.openLowers(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	do(s)
}

func (c *checked) run(t *testing.T, o check.Options) (r *check.Report) {
	t.Helper()
	c.with(t, func(s *overlay.Store) {
		var err error
		if r, err = s.Check(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	})
	for _, err := range r.Errors {
		t.Errorf("could not look: %v", err)
	}
	return r
}

func (c *checked) inUpper(o storetest.Object) string {
	return filepath.Join(c.upper(), o.Path().Base())
}

func (c *checked) inLower(i int, o storetest.Object) string {
	return filepath.Join(c.lowers[i], "nix/store", o.Path().Base())
}

func (c *checked) sql(t *testing.T, state, script string) {
	t.Helper()
	conn, err := sqlite.OpenConn(filepath.Join(state, "db/db.sqlite"))
	if err == nil {
		err = errors.Join(sqlitex.ExecuteScript(conn, script, nil), conn.Close())
	}
	must(t, err)
}

func (c *checked) stateOfLower(i int) string { return filepath.Join(c.lowers[i], "nix/var/nix") }

// addLower adds to a lower behind the mount's back.
func (c *checked) addLower(t *testing.T, i int, objects ...storetest.Object) {
	t.Helper()
	l := c.lower(t, c.lowers[i], false)
	addTo(t, l, objects...)
	must(t, l.Close())
}

func codes(r *check.Report) (out []check.Code) {
	for _, c := range r.Counts {
		out = append(out, c.Class.Code)
	}
	slices.Sort(out)
	return out
}

func left(r *check.Report) int {
	damage, disorder := r.Left()
	return damage + disorder
}

func sentences(r *check.Report) (out []string) {
	for _, f := range r.Findings {
		text := fmt.Sprintf("%s: %s: %s", f.Outcome, f.Code, f.Sentence())
		if f.Err != nil {
			text += ": " + f.Err.Error()
		}
		out = append(out, text)
	}
	return out
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// overwrite changes what is in a file of an object.
func overwrite(t *testing.T, path, contents string) {
	t.Helper()
	dir := filepath.Dir(path)
	fi, err := os.Stat(dir)
	was, errWas := os.Stat(path)
	must(t, err, errWas)
	must(t, os.Chmod(dir, 0o755), os.Remove(path), os.WriteFile(path, []byte(contents), was.Mode()))
	for _, p := range []string{path, dir} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0))
	}
	must(t, os.Chmod(dir, fi.Mode().Perm()))
}

var layered = []struct {
	name     string
	code     []check.Code
	contents bool
	// inLower: the lower stays as it is, and so does what is said of it.
	inLower []check.Code
	do      func(t *testing.T, c *checked)
}{
	{name: "lower lost a file", code: []check.Code{check.LowerObjectMissing}, inLower: []check.Code{check.CoveredMissing}, do: func(t *testing.T, c *checked) {
		must(t, os.Remove(c.inLower(0, c.chain[0])))
	}},
	{name: "lower lost a tree", code: []check.Code{check.LowerObjectMissing}, inLower: []check.Code{check.CoveredMissing}, do: func(t *testing.T, c *checked) {
		must(t, testenv.RemoveAll(c.inLower(0, c.tree)))
	}},
	{name: "lower lost what nobody needs", code: []check.Code{check.RowWithoutObject}, inLower: []check.Code{check.RowWithoutObject}, do: func(t *testing.T, c *checked) {
		must(t, testenv.RemoveAll(c.inLower(0, c.free)))
	}},
	{name: "lower says other contents", code: []check.Code{check.LowerObjectChanged}, inLower: nil, do: func(t *testing.T, c *checked) {
		overwrite(t, filepath.Join(c.inLower(0, c.tree), "bin/x"), "other")
		var sum = narHash(t, c.inLower(0, c.tree))
		c.sql(t, c.stateOfLower(0), "update ValidPaths set hash = '"+sum+"' where path like '%-tree'")
	}},
	{name: "lower has other contents", contents: true, code: []check.Code{check.ObjectModified}, inLower: []check.Code{check.CoveredModified}, do: func(t *testing.T, c *checked) {
		overwrite(t, filepath.Join(c.inLower(0, c.tree), "bin/x"), "bad")
	}},
	{name: "lower forgot a path", code: []check.Code{check.LowerRowMissing}, inLower: nil, do: func(t *testing.T, c *checked) {
		c.sql(t, c.stateOfLower(1), "pragma foreign_keys = 1; delete from ValidPaths where path like '%-spare'")
	}},
	{name: "nobody has it", code: []check.Code{check.RowWithoutObject}, do: func(t *testing.T, c *checked) {
		c.sql(t, c.stateOfLower(1), "pragma foreign_keys = 1; delete from ValidPaths where path like '%-spare'")
		must(t, testenv.RemoveAll(c.inLower(1, c.spare)))
	}},
	{name: "upper lost a file", code: []check.Code{check.RowWithoutObject}, do: func(t *testing.T, c *checked) {
		must(t, os.Remove(c.inUpper(c.chain[2])), overlayfs.Refresh(t.Context(), c.merged()))
	}},
	{name: "upper has other contents", contents: true, code: []check.Code{check.ObjectModified}, do: func(t *testing.T, c *checked) {
		overwrite(t, c.inUpper(c.chain[2]), "bad")
		must(t, overlayfs.Refresh(t.Context(), c.merged()))
	}},
	{name: "whiteout", code: []check.Code{check.WhiteoutHidesLower}, do: func(t *testing.T, c *checked) {
		must(t, testenv.RemoveAll(filepath.Join(c.merged(), c.tree.Path().Base())))
	}},
	{name: "whiteout of what nobody needs", code: []check.Code{check.WhiteoutHidesLower}, do: func(t *testing.T, c *checked) {
		must(t, testenv.RemoveAll(filepath.Join(c.merged(), c.free.Path().Base())))
	}},
	{name: "whiteout of nothing", code: []check.Code{check.WhiteoutStray}, do: func(t *testing.T, c *checked) {
		must(t, testenv.RemoveAll(filepath.Join(c.merged(), c.free.Path().Base())), testenv.RemoveAll(c.inLower(0, c.free)))
		c.sql(t, c.stateOfLower(0), "delete from ValidPaths where path like '%-free'")
	}},
	{name: "opaque directory", code: []check.Code{check.ObjectHidesLower}, do: func(t *testing.T, c *checked) {
		path := filepath.Join(c.merged(), c.free.Path().Base())
		must(t, testenv.RemoveAll(path), os.Mkdir(path, 0o755), os.WriteFile(filepath.Join(path, "f"), []byte("another"), 0o444))
	}},
	{name: "part of a directory", code: []check.Code{check.ObjectHidesLower}, do: func(t *testing.T, c *checked) {
		must(t, os.Chmod(filepath.Join(c.merged(), c.free.Path().Base(), "f"), 0o644))
	}},
	{name: "mixed with what the upper needs", code: []check.Code{check.ObjectMerged}, do: func(t *testing.T, c *checked) {
		path := filepath.Join(c.merged(), c.tree.Path().Base(), "bin/x")
		must(t, os.Chmod(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("mixed"), 0o644))
	}},
	{name: "complete and not opaque", code: []check.Code{check.ObjectMerged}, do: func(t *testing.T, c *checked) {
		c.addLower(t, 0, c.tree, c.spare, c.own)
		for _, user := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
			_ = unix.Removexattr(c.inUpper(c.own), user)
		}
		must(t, overlayfs.Refresh(t.Context(), c.merged()))
	}},
	{name: "duplicate", code: []check.Code{check.DuplicateOfLower}, do: func(t *testing.T, c *checked) {
		c.addLower(t, 0, c.chain[2])
	}},
	{name: "duplicate of a tree", code: []check.Code{check.DuplicateOfLower}, do: func(t *testing.T, c *checked) {
		c.addLower(t, 0, c.spare, c.own)
	}},
	{name: "stale view", code: []check.Code{check.ViewStale}, do: func(t *testing.T, c *checked) {
		// The kernel has seen that it is not there, and is not told that it is back.
		place, away := c.inLower(1, c.spare), filepath.Join(c.dir, "away")
		must(t, os.Chmod(place, 0o755), os.Rename(place, away), overlayfs.Refresh(t.Context(), c.merged()))
		if _, err := os.Stat(filepath.Join(c.merged(), c.spare.Path().Base())); err == nil {
			t.Fatal("it still shows")
		}
		must(t, os.Rename(away, place), os.Chmod(place, 0o555))
	}},
	{name: "stray in the upper", code: []check.Code{check.ObjectWithoutRow}, do: func(t *testing.T, c *checked) {
		must(t, os.Mkdir(filepath.Join(c.merged(), "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-stray"), 0o755))
	}},
	{name: "stray in a lower", code: []check.Code{check.ObjectWithoutRow}, inLower: []check.Code{check.ObjectWithoutRow}, do: func(t *testing.T, c *checked) {
		must(t, os.Mkdir(filepath.Join(c.lowers[1], "nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-stray"), 0o755))
	}},
	{name: "foreign file", code: []check.Code{check.ForeignFile}, do: func(t *testing.T, c *checked) {
		must(t, os.WriteFile(filepath.Join(c.merged(), "a\n\xff"), nil, 0o644))
	}},
	{name: "trash", code: []check.Code{check.LeftoverTemporary}, do: func(t *testing.T, c *checked) {
		trash := filepath.Join(c.merged(), overlayfs.TrashPrefix+"X")
		must(t, os.MkdirAll(filepath.Join(trash, "y"), 0o755), os.Chtimes(trash, time.Unix(1, 0), time.Unix(1, 0)))
	}},
	{name: "mode in the upper", contents: true, code: []check.Code{check.MetadataWrong}, do: func(t *testing.T, c *checked) {
		must(t, os.Chmod(filepath.Join(c.merged(), c.own.Path().Base(), "bin/own"), 0o755))
	}},
}

func narHash(t *testing.T, path string) string {
	t.Helper()
	h := nixhash.SHA256.New()
	must(t, nar.Dump(t.Context(), h, path))
	return nixhash.Sum(nixhash.SHA256, h).Text(nixhash.Base16)
}

// snapshot is all that is in the lowers.
func (c *checked) snapshot(t *testing.T) string {
	t.Helper()
	h := sha256.New()
	for _, root := range c.lowers {
		must(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			fi, err := e.Info()
			if err != nil {
				return err
			}
			_, _ = fmt.Fprintln(h, path, fi.Mode(), fi.Size(), fi.ModTime())
			if fi.Mode().IsRegular() {
				b, err := os.ReadFile(path)
				_, _ = h.Write(b)
				return err
			}
			return nil
		}))
	}
	return string(h.Sum(nil))
}

// What is wrong between layers is found with its code and no other, and mended in the
// upper; a lower stays as it is.
func TestCheckOfLayers(t *testing.T) {
	if !isolated(t) {
		return
	}
	for i, d := range layered {
		if testing.Short() && i%8 != 0 {
			continue // a sample, where everything takes ten times as long
		}
		t.Run(d.name, func(t *testing.T) {
			c := newChecked(t)
			if r := c.run(t, check.Options{Contents: true}); len(codes(r)) > 0 {
				t.Fatalf("before anything was damaged: %q", sentences(r))
			}
			d.do(t, c)
			o := check.Options{Contents: d.contents}
			slices.Sort(d.code)
			for range 2 {
				if r := c.run(t, o); !slices.Equal(codes(r), d.code) {
					t.Fatalf("found %q: %q", codes(r), sentences(r))
				}
			}
			lowers := c.snapshot(t)
			o.Repair = true
			r := c.run(t, o)
			if len(d.inLower) == 0 && left(r) != 0 {
				t.Errorf("after the repair: %q", sentences(r))
			}
			if got := c.snapshot(t); got != lowers {
				t.Error("a lower was written to")
			}
			r = c.run(t, check.Options{Contents: true})
			if !slices.Equal(codes(r), d.inLower) {
				t.Errorf("the second check: %q", sentences(r))
			}
			if r := c.run(t, check.Options{Contents: true, Layers: []string{"upper"}}); len(codes(r)) != 0 && d.name != "lower lost what nobody needs" {
				t.Errorf("the upper: %q", sentences(r))
			}
			c.with(t, func(s *overlay.Store) {
				for _, obj := range append(slices.Clone(c.chain), c.tree, c.spare, c.own) {
					if err := s.NarFromPath(t.Context(), obj.Path(), io.Discard); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// What a lower lost or spoilt, and the upper gave up, is told from then on with what is left to be done
// about it, and nothing else is.
func TestCheckAfterGivingUp(t *testing.T) {
	if !isolated(t) {
		return
	}
	c := newChecked(t)
	c.o.Upper.Substituters = nil // nobody has it
	must(t, os.Remove(c.inLower(0, c.chain[0])))
	overwrite(t, filepath.Join(c.inLower(0, c.tree), "bin/x"), "bad")
	must(t, overlayfs.Refresh(t.Context(), c.merged()))
	if r := c.run(t, check.Options{Contents: true}); !slices.Equal(codes(r), []check.Code{check.LowerObjectMissing, check.ObjectModified}) || strings.Contains(strings.Join(sentences(r), "\n"), "owner") {
		t.Errorf("%q", sentences(r))
	}
	c.run(t, check.Options{Contents: true, Repair: true, Drop: true})
	for range 2 {
		r := c.run(t, check.Options{Contents: true})
		if !slices.Equal(codes(r), []check.Code{check.ObjectModified, check.RowWithoutObject}) || len(r.Findings) != 2 {
			t.Errorf("%q", sentences(r))
		}
		for _, f := range r.Findings {
			if f.Layer == "upper" || !strings.Contains(f.Detail, "the upper does not need it; until its owner brings it back or has it forgotten") {
				t.Errorf("%s: %s: %s", f.Layer, f.Code, f.Detail)
			}
		}
	}
	// Its owner does that.
	c.addLower(t, 0, c.chain[0])
	s := c.lower(t, c.lowers[0], false)
	_, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteSpecific, Paths: []storepath.Path{c.tree.Path()}, MaxFreed: store.NoLimit})
	must(t, err, s.Close())
	if r := c.run(t, check.Options{Contents: true}); left(r) != 1 {
		t.Errorf("%q", sentences(r))
	}
}

// A mount that is not what the layers say is a finding, and nothing is written then; the
// layers are looked at all the same.
func TestCheckOfWrongMount(t *testing.T) {
	if !isolated(t) {
		return
	}
	c := newChecked(t)
	must(t, os.WriteFile(filepath.Join(c.merged(), "foreign"), nil, 0o644))
	slices.Reverse(c.lowers)
	o := c.o
	o.Tolerant = true
	before := c.snapshot(t)
	s, err := overlay.Open(t.Context(), o, c.openLowers(t))
	must(t, err)
	defer func() { _ = s.Close() }()
	for _, repair := range []bool{false, true} {
		r, err := s.Check(t.Context(), check.Options{Contents: true, Repair: repair})
		must(t, err)
		if !slices.Equal(codes(r), []check.Code{check.ForeignFile, check.MountWrong}) || left(r) != 2 {
			t.Errorf("%q", sentences(r))
		}
	}
	if c.snapshot(t) != before {
		t.Error("a lower was written to")
	}
	slices.Reverse(c.lowers)
	if r := c.run(t, check.Options{Repair: true}); left(r) != 0 {
		t.Errorf("with the right layers: %q", sentences(r))
	}
}

// The operation of the worker protocol finds what the upper has and needs, whatever else is
// wrong with a lower, and deletes nothing that is only in the way.
func TestVerifyOfLayers(t *testing.T) {
	if !isolated(t) {
		return
	}
	c := newChecked(t)
	must(t, testenv.RemoveAll(c.inLower(0, c.free)), os.WriteFile(filepath.Join(c.merged(), "foreign"), nil, 0o644))
	var said []string
	verify := func(repair, want bool) {
		t.Helper()
		var lines testenv.Lines
		c.with(t, func(s *overlay.Store) {
			damaged, err := s.Verify(activity.With(t.Context(), &lines), store.VerifyOptions{CheckContents: true, Repair: repair})
			if err != nil || damaged != want {
				t.Errorf("damaged: %v, %v", damaged, err)
			}
		})
		said = lines.UpTo(activity.Error)
	}
	verify(false, false)
	overwrite(t, filepath.Join(c.inLower(0, c.tree), "bin/x"), "bad")
	must(t, testenv.RemoveAll(c.inLower(1, c.spare)), overlayfs.Refresh(t.Context(), c.merged()))
	verify(false, true)
	lost := "path '" + storepath.DefaultDir.Print(c.spare.Path()) + "' disappeared, but it still has valid referrers!"
	changed := "path '" + storepath.DefaultDir.Print(c.tree.Path()) + "' was modified! expected hash"
	if len(said) != 2 || said[0] != lost || !strings.HasPrefix(said[1], changed) {
		t.Errorf("it said %q", said)
	}
	verify(true, false)
	verify(false, false)
	if _, err := os.Stat(filepath.Join(c.merged(), "foreign")); err != nil {
		t.Error(err)
	}
}
