package execute

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func TestBuildDirectories(t *testing.T) {
	parent := filepath.Join(testenv.Scratch(t), "builds")
	for _, below := range []bool{false, true} {
		d, err := newBuildDir(t.Context(), parent, below, nil)
		if err != nil {
			t.Fatal(err)
		}
		if (d.path != d.top) != below || mode(t, d.top) != 0o700 || mode(t, d.path) != 0o700 {
			t.Errorf("%s in %s: %v, %v", d.path, d.top, mode(t, d.path), mode(t, d.top))
		}
		if err := d.write("a", "text", nil); err != nil {
			t.Error(err)
		}
		if text, _ := os.ReadFile(filepath.Join(d.path, "a")); string(text) != "text" {
			t.Errorf("%q", text)
		}
		for _, name := range []string{"a", "", ".", "..", "x/y", "../x", "\x00"} {
			if d.write(name, "", nil) == nil {
				t.Errorf("a file %q was made", name)
			}
		}
		d.remove(t.Context())
	}
	if left := entries(t, parent); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestFilesDoNotFollowSymlinks(t *testing.T) {
	dir := testenv.Scratch(t)
	d, err := newBuildDir(t.Context(), filepath.Join(dir, "builds"), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.remove(t.Context())
	if err := os.Symlink(filepath.Join(dir, "victim"), filepath.Join(d.path, "a")); err != nil {
		t.Fatal(err)
	}
	if d.write("a", "", nil) == nil {
		t.Error("something was written through a symlink")
	}
	if _, err := os.Lstat(filepath.Join(dir, "victim")); err == nil {
		t.Error("the target is there")
	}
}

// Directories of processes that were killed go, those of running builds and
// those that are kept stay.
func TestSweep(t *testing.T) {
	parent := filepath.Join(testenv.Scratch(t), "builds")
	running, err := newBuildDir(t.Context(), parent, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer running.remove(t.Context())
	kept, err := newBuildDir(t.Context(), parent, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	kept.keep(t.Context())
	for _, name := range []string{buildDirPrefix + "1-1", buildDirPrefix + "1-2", "nix-1-1", "other"} {
		if err := os.MkdirAll(filepath.Join(parent, name, "build"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(parent, buildDirPrefix+"1-2"), 0); err != nil {
		t.Fatal(err)
	}
	sweep(t.Context(), parent)
	want := []string{"nix-1-1", "other", filepath.Base(running.top), filepath.Base(kept.top)}
	if got := entries(t, parent); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestWorldWritableParents(t *testing.T) {
	top := testenv.Scratch(t)
	parent := filepath.Join(top, "a", "builds")
	if err := os.MkdirAll(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := checkNobodyMoves(parent); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir  string
		mode os.FileMode
		ok   bool
	}{
		{"a", 0o777, false}, {"a", 0o777 | os.ModeSticky, true}, {"a", 0o775, true},
		{"a/builds", 0o777, false}, {"a/builds", 0o777 | os.ModeSticky, false},
	} {
		dir := filepath.Join(top, c.dir)
		if err := os.Chmod(dir, c.mode); err != nil {
			t.Fatal(err)
		}
		if err := checkNobodyMoves(parent); (err == nil) != c.ok {
			t.Errorf("%s with mode %v: %v", c.dir, c.mode, err)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
