package overlay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/optimise"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// treeOf is an object with some files, two of which are equal.
func treeOf(t *testing.T, name string) storetest.Object {
	t.Helper()
	return storetest.Tree(t, storepath.DefaultDir, name, map[string]string{"a/same": "the same", "b/same": "the same", "own": "of " + name, "large": string(bytes.Repeat([]byte("large "), 5000))})
}

// disk is the space of the files and directories in a directory.
func disk(t *testing.T, dir string) (n uint64) {
	t.Helper()
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir || path == filepath.Join(dir, ".links") {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		if st := fi.Sys().(*syscall.Stat_t); !seen[st.Ino] {
			seen[st.Ino] = true
			n += uint64(st.Blocks) * 512
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func links(t *testing.T, path string) uint64 {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(fi.Sys().(*syscall.Stat_t).Nlink)
}

// whole fails unless the merged directory shows an object as it was added.
func (w *world) whole(t *testing.T, o storetest.Object) {
	t.Helper()
	var got bytes.Buffer
	if err := nar.Dump(t.Context(), &got, filepath.Join(w.merged(), o.Path().Base())); err != nil || !bytes.Equal(got.Bytes(), o.NAR) {
		t.Errorf("%s: %d bytes, want %d: %v", o.Path(), got.Len(), len(o.NAR), err)
	}
}

// A lower that is optimised itself has links that the merged directory would show. Links are made
// of the upper's files alone, and nothing of a lower is copied up.
func TestOptimiseLinksTheUpperAlone(t *testing.T) {
	if !isolated(t) {
		return
	}
	below := treeOf(t, "below")
	w := newWorld(t, 1, func(_ int, s *local.Store) {
		addTo(t, s, below)
		if err := s.Optimise(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	s := w.open(t)
	one, two := treeOf(t, "one"), treeOf(t, "two")
	addTo(t, s, one, two)
	before := disk(t, w.upper())
	dry, err := s.OptimiseWith(t.Context(), optimise.Request{DryRun: true})
	if err != nil || disk(t, w.upper()) != before {
		t.Errorf("a dry run: %v, %d bytes of %d are left", err, disk(t, w.upper()), before)
	}
	out, err := s.OptimiseWith(t.Context(), optimise.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if out != dry || out.Files != 4 || out.Bytes != before-disk(t, w.upper()) {
		t.Errorf("%+v, the dry run said %+v; %d bytes left the disk", out, dry, before-disk(t, w.upper()))
	}
	for _, name := range []string{"a/same", "b/same"} {
		if n := links(t, filepath.Join(w.upper(), one.Path().Base(), name)); n != 5 {
			t.Errorf("%s has %d links", name, n)
		}
		if n := links(t, filepath.Join(w.lowers[0], "nix/store", below.Path().Base(), name)); n != 3 {
			t.Errorf("%s of the lower has %d links", name, n)
		}
	}
	if got := objects(t, w.upper()); len(got) != 2 {
		t.Errorf("the upper layer has %q", got)
	}
	seen, err := os.ReadDir(filepath.Join(w.merged(), ".links"))
	own, ownErr := os.ReadDir(filepath.Join(w.upper(), ".links"))
	if err != nil || ownErr != nil || len(seen) != len(own) || len(own) != 4 {
		t.Errorf("%d links show, %d are the upper's: %v, %v", len(seen), len(own), err, ownErr)
	}
	for _, o := range []storetest.Object{below, one, two} {
		w.whole(t, o)
	}
	if again, err := s.OptimiseWith(t.Context(), optimise.Request{}); err != nil || again != (optimise.Outcome{}) {
		t.Errorf("once more: %+v, %v", again, err)
	}
}

// What is added is made one with what the upper has, at once, and with nothing of a lower.
func TestAutoOptimiseLinksTheUpperAlone(t *testing.T) {
	if !isolated(t) {
		return
	}
	below := treeOf(t, "below")
	w := newWorld(t, 1, func(_ int, s *local.Store) {
		addTo(t, s, below)
		if err := s.Optimise(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	o := w.options()
	o.Upper.AutoOptimise = true
	s, err := overlay.Open(t.Context(), o, w.openLowers(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	one, two := treeOf(t, "one"), treeOf(t, "two")
	addTo(t, s, one, two)
	for _, name := range []string{"a/same", "b/same"} {
		if n := links(t, filepath.Join(w.upper(), one.Path().Base(), name)); n != 5 {
			t.Errorf("%s has %d links", name, n)
		}
		if n := links(t, filepath.Join(w.lowers[0], "nix/store", below.Path().Base(), name)); n != 3 {
			t.Errorf("%s of the lower has %d links", name, n)
		}
	}
	for _, o := range []storetest.Object{below, one, two} {
		w.whole(t, o)
	}
}

// unhidingIn is the world of a child that may not hide anything of lowers.
const unhidingIn = "STRATA_TEST_OPTIMISE_IN"

// Who may not hide the links of lowers adds all the same, makes the upper's own files one, and leaves those of lowers alone.
func TestAutoOptimiseWhereNothingCanBeHidden(t *testing.T) {
	own := map[string]string{"a": "only in the upper", "b": "only in the upper", "same": "in both"}
	one, two := storetest.Tree(t, storepath.DefaultDir, "one", own), storetest.Tree(t, storepath.DefaultDir, "two", own)
	if dir := os.Getenv(unhidingIn); dir != "" {
		w := &world{dir: dir, lowers: []string{filepath.Join(dir, "lower0")}}
		o := w.options()
		o.Upper.AutoOptimise = true
		s, err := overlay.Open(t.Context(), o, w.openLowers(t))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		addTo(t, s, one, two)
		return
	}
	testenv.PrivilegedRoot(t)
	if !isolated(t) {
		return
	}
	below := storetest.Tree(t, storepath.DefaultDir, "below", map[string]string{"same": "in both", "too": "in both"})
	w := newWorld(t, 1, func(_ int, s *local.Store) {
		addTo(t, s, below)
		if err := s.Optimise(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testenv.Tool(t, "setpriv"), "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", exe, "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), unhidingIn+"="+w.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if opaque, err := overlayfs.IsOpaque(filepath.Join(w.upper(), ".links")); opaque || err != nil {
		t.Errorf("the links hide others: %t, %v", opaque, err)
	}
	for _, o := range []storetest.Object{one, two} {
		if n := links(t, filepath.Join(w.upper(), o.Path().Base(), "a")); n != 5 {
			t.Errorf("%s has %d links", o.Path(), n)
		}
		w.whole(t, o)
	}
	if n := links(t, filepath.Join(w.lowers[0], "nix/store", below.Path().Base(), "same")); n != 3 {
		t.Errorf("a file of the lower has %d links", n)
	}
}

// What a lower has gained leaves the upper, with the links that held its files.
func TestDuplicatesGiveBackTheirSpace(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWorld(t, 2, nil)
	s := w.open(t)
	dup, other := treeOf(t, "dup"), treeOf(t, "other")
	addTo(t, s, dup, other)
	if err := s.Optimise(t.Context()); err != nil {
		t.Fatal(err)
	}
	l := w.lower(t, w.lowers[1], false)
	addTo(t, l, dup)
	_ = l.Close()
	held, err := os.Open(filepath.Join(w.merged(), dup.Path().Base(), "own"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	before := disk(t, w.upper())
	dry, err := s.OptimiseWith(t.Context(), optimise.Request{DryRun: true})
	if err != nil || disk(t, w.upper()) != before {
		t.Errorf("a dry run: %v, %d bytes of %d are left", err, disk(t, w.upper()), before)
	}
	out, err := s.OptimiseWith(t.Context(), optimise.Request{})
	if dry != out {
		t.Errorf("%+v, the dry run said %+v", out, dry)
	}
	if err != nil || out.Dropped != 1 || out.DroppedBytes != before-disk(t, w.upper()) || out.DroppedBytes == 0 {
		t.Errorf("%+v, %v; %d bytes left the disk", out, err, before-disk(t, w.upper()))
	}
	if got := objects(t, w.upper()); !slices.Equal(got, []string{other.Path().Base()}) {
		t.Errorf("the upper layer has %q", got)
	}
	if hidden, err := overlayfs.Whiteouts(t.Context(), w.upper()); err != nil || len(hidden) > 0 {
		t.Errorf("whiteouts: %q, %v", hidden, err)
	}
	w.whole(t, dup)
	w.whole(t, other)
	if got := rows(t, s); len(got) != 2 {
		t.Errorf("rows: %q", got)
	}
	text := make([]byte, 6)
	if _, err := held.ReadAt(text, 0); err != nil || string(text) != "of dup" {
		t.Errorf("a file that was open: %q, %v", text, err)
	}
}

// Databases may say what they want: what a lower does not have stays.
func TestDamagedLowerObjectIsNoReasonToDrop(t *testing.T) {
	if !isolated(t) {
		return
	}
	for name, damage := range map[string]func(object string) error{
		"gone":      os.RemoveAll,
		"file gone": func(o string) error { return os.Remove(filepath.Join(o, "a/same")) },
		"shorter":   func(o string) error { return os.Truncate(filepath.Join(o, "large"), 7) },
		"another":   func(o string) error { return os.WriteFile(filepath.Join(o, "b/new"), nil, 0o444) },
		"mode":      func(o string) error { return os.Chmod(filepath.Join(o, "own"), 0o555) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, nil)
			s := w.open(t)
			dup := treeOf(t, "dup")
			addTo(t, s, dup)
			l := w.lower(t, w.lowers[0], false)
			addTo(t, l, dup)
			_ = l.Close()
			object := filepath.Join(w.lowers[0], "nix/store", dup.Path().Base())
			for _, d := range []string{object, filepath.Join(object, "a"), filepath.Join(object, "b")} {
				if err := os.Chmod(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(os.Chmod(filepath.Join(object, "large"), 0o644), damage(object)); err != nil {
				t.Fatal(err)
			}
			out, err := s.OptimiseWith(t.Context(), optimise.Request{})
			if err != nil || out.Dropped != 0 {
				t.Errorf("%+v, %v", out, err)
			}
			w.whole(t, dup)
		})
	}
}

const (
	crashAt = "OVERLAY_TEST_CRASH_AT"
	crashIn = "OVERLAY_TEST_CRASH_IN"
)

// TestMain lets the test binary be a process that is killed while it optimises.
func TestMain(m *testing.M) {
	if at, err := strconv.Atoi(os.Getenv(crashAt)); err == nil {
		if err := optimiseUntil(context.Background(), at, os.Getenv(crashIn)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func optimiseUntil(ctx context.Context, at int, dir string) error {
	w := &world{dir: dir, lowers: []string{filepath.Join(dir, "lower0")}}
	l, err := local.Open(ctx, local.Options{Root: w.lowers[0], ReadOnly: true, URI: "local?root=" + w.lowers[0]})
	if err != nil {
		return err
	}
	s, err := overlay.Open(ctx, w.options(), []store.Store{l})
	if err != nil {
		return err
	}
	crashpoint.KillAt(at, nil)
	return errors.Join(s.Optimise(ctx), s.Close())
}

// Killed between any two steps, the next run finds all objects whole, and finishes.
func TestOptimiseKilledAnywhere(t *testing.T) {
	testenv.Long(t)
	if !isolated(t) {
		return
	}
	nix := stockLayered(t)
	for points := 0; ; points++ {
		w := newWorld(t, 1, nil)
		dup, dup2, one, two := treeOf(t, "dup"), treeOf(t, "dup2"), treeOf(t, "one"), treeOf(t, "two")
		s := w.open(t)
		addTo(t, s, dup, dup2, one, two)
		l := w.lower(t, w.lowers[0], false)
		addTo(t, l, dup, dup2)
		_ = l.Close()
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), crashAt+"="+strconv.Itoa(points), crashIn+"="+w.dir)
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState.String() != "signal: killed" {
			t.Fatalf("point %d: %v\n%s", points, err, out)
		}
		for _, o := range []storetest.Object{one, two} {
			w.whole(t, o)
		}
		next := w.open(t)
		w.stockAgrees(t, nix, next)
		if optErr := next.Optimise(t.Context()); optErr != nil {
			t.Fatalf("point %d: %v", points, optErr)
		}
		for _, o := range []storetest.Object{dup, dup2, one, two} {
			w.whole(t, o)
		}
		got := objects(t, w.upper())
		got = slices.DeleteFunc(got, func(n string) bool { return strings.Contains(n, "-strata-tmp-link-") }) // a collection removes them
		want := []string{one.Path().Base(), two.Path().Base()}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("point %d: the upper layer has %q", points, got)
		}
		if n := links(t, filepath.Join(w.upper(), one.Path().Base(), "a/same")); n < 5 {
			t.Errorf("point %d: %d links", points, n)
		}
		for _, o := range []storetest.Object{one, two} {
			for _, d := range []string{"", "a", "b"} {
				if fi, err := os.Lstat(filepath.Join(w.merged(), o.Path().Base(), d)); err != nil || fi.Mode().Perm() != 0o555 || fi.ModTime().Unix() != 1 {
					t.Errorf("point %d: %s: %v, %v", points, d, fi.Mode(), err)
				}
			}
		}
		if err == nil {
			if points < 8 {
				t.Errorf("only %d points were met", points)
			}
			return
		}
	}
}

// What a repair has put into the upper since a lower's copy is damaged stays there for as long as that
// is so, though the lower's looks the same from outside.
func TestKeptObjectsAreNoDuplicates(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWorld(t, 1, nil)
	s := w.open(t)
	dup := treeOf(t, "dup")
	addTo(t, s, dup)
	l := w.lower(t, w.lowers[0], false)
	addTo(t, l, dup)
	_ = l.Close()
	file := filepath.Join(w.lowers[0], "nix/store", dup.Path().Base(), "large")
	good, err := os.ReadFile(file)
	must(t, err)
	bad := slices.Clone(good)
	bad[1] ^= 1
	must(t, os.Chmod(file, 0o644), os.WriteFile(file, bad, 0o644), os.Chmod(file, 0o444))
	must(t, os.WriteFile(filepath.Join(w.dir, "state/strata-kept"), []byte(dup.Path().Base()+"\n"), 0o644))
	if out, err := s.OptimiseWith(t.Context(), optimise.Request{}); err != nil || out.Dropped != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	w.whole(t, dup)
	must(t, os.Chmod(file, 0o644), os.WriteFile(file, good, 0o644), os.Chmod(file, 0o444))
	if out, err := s.OptimiseWith(t.Context(), optimise.Request{}); err != nil || out.Dropped != 1 {
		t.Errorf("when it is whole again: %+v, %v", out, err)
	}
	w.whole(t, dup)
}
