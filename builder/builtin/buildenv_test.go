package builtin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/storepath"
)

// environment builds one of packages, "ACTIVE PRIORITY N PATH…" each.
func environment(t *testing.T, add func(w *world) []string) (*world, error) {
	t.Helper()
	w := newWorld(t, "buildenv", map[string]string{"manifest": "/nix/store/manifest"})
	w.Drv.Env["derivations"] = strings.Join(add(w), " ")
	return w, w.run()
}

// check compares an environment, in which {a}, {b}… stand for objects.
func (w *world) check(want map[string]string) {
	w.t.Helper()
	expected := map[string]string{"manifest.nix": "-> /nix/store/manifest"}
	for name, contents := range want {
		for i := range w.next {
			contents = strings.ReplaceAll(contents, "{"+letters[i:i+1]+"}", string(w.Dir)+"/"+objectName(i))
		}
		expected[name] = contents
	}
	if got := w.output(); !maps.Equal(got, expected) {
		w.t.Errorf("got %q\nwant %q", got, expected)
	}
}

func TestBuildenv(t *testing.T) {
	type files = map[string]string
	type object struct {
		words string // before its path
		files files
	}
	for name, c := range map[string]struct {
		objects []object
		want    files
	}{
		"nothing": {nil, nil},
		"one package": {
			[]object{{"true 5 1", files{"bin/x": "#!x", "share/doc/y": "y", "top": "z"}}},
			files{"bin": "-> {a}/bin", "share": "-> {a}/share", "top": "-> {a}/top"},
		},
		"directories of two are merged": {
			[]object{{"true 5 1", files{"bin/x": "", "share/a/1": ""}}, {"true 5 1", files{"bin/y": "", "share/b/2": ""}}},
			files{"bin/x": "-> {a}/bin/x", "bin/y": "-> {b}/bin/y", "share/a": "-> {a}/share/a", "share/b": "-> {b}/share/b"},
		},
		"three levels": {
			[]object{{"true 5 1", files{"a/b/c/1": ""}}, {"true 5 1", files{"a/b/c/2": ""}}, {"true 5 1", files{"a/b/c/3": "", "a/b/d": ""}}},
			files{"a/b/c/1": "-> {a}/a/b/c/1", "a/b/c/2": "-> {b}/a/b/c/2", "a/b/c/3": "-> {c}/a/b/c/3", "a/b/d": "-> {c}/a/b/d"},
		},
		"the smaller priority wins, whatever the order": {
			[]object{{"true 9 1", files{"bin/x": "9"}}, {"true 3 1", files{"bin/x": "3"}}, {"true 7 1", files{"bin/x": "7"}}},
			files{"bin/x": "-> {b}/bin/x"},
		},
		"negative priorities": {
			[]object{{"true 0 1", files{"x": ""}}, {"true -10 1", files{"x": ""}}},
			files{"x": "-> {b}/x"},
		},
		"inactive packages": {
			[]object{{"false 5 1", files{"x": ""}}, {"true 5 1", files{"y": ""}}},
			files{"y": "-> {b}/y"},
		},
		"files that are no use": {
			[]object{{"true 5 1", files{
				".hidden": "", "propagated-build-inputs": "", "nix-support/x": "", "lib/perllocal.pod": "", "share/info/dir": "",
				"log": "", "manifest.nix": "", "manifest.json": "", "share/dir": "", "share/info/x": "",
			}}, {"true 5 1", files{"lib/": "", "share/info/y": ""}}},
			files{"lib/": "", "share/dir": "-> {a}/share/dir", "share/info/x": "-> {a}/share/info/x", "share/info/y": "-> {b}/share/info/y"},
		},
		"a symlink to a directory is one": {
			[]object{{"true 5 1", files{"real/x": "", "bin": "-> real"}}, {"true 5 1", files{"bin/y": ""}}},
			files{"real": "-> {a}/real", "bin/x": "-> {a}/real/x", "bin/y": "-> {b}/bin/y"},
		},
		"a symlink to another object": {
			[]object{{"false 5 1", files{"x/1": ""}}, {"true 5 1", files{"x": "-> /nix/store/" + strings.Repeat("a", 32) + "-object/x"}}, {"true 5 1", files{"x/2": ""}}},
			files{"x/1": "-> {a}/x/1", "x/2": "-> {c}/x/2"},
		},
		"a dangling symlink is left out": {
			[]object{{"true 5 1", files{"x": "-> nowhere", "y": "-> /etc/passwd", "z": "-> ../../../etc/passwd", "v": ""}}},
			files{"v": "-> {a}/v"},
		},
		"a file is no package": {
			[]object{{"true 5 1", files{"": "just a file"}}, {"true 5 1", files{"x": ""}}},
			files{"x": "-> {b}/x"},
		},
		"directory over file by priority": {
			[]object{{"true 3 1", files{"x": "file"}}, {"true 5 1", files{"y": ""}}},
			files{"x": "-> {a}/x", "y": "-> {b}/y"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := environment(t, func(w *world) []string {
				var words []string
				for _, o := range c.objects {
					words = append(words, o.words, w.add(o.files))
				}
				return words
			})
			if err != nil {
				t.Fatal(err)
			}
			w.check(c.want)
		})
	}
}

func TestBuildenvOutputs(t *testing.T) {
	w, err := environment(t, func(w *world) []string {
		return []string{"true 5 2", w.add(map[string]string{"bin/x": ""}), w.add(map[string]string{"man/x": ""}), "true 5 0"}
	})
	if err != nil {
		t.Fatal(err)
	}
	w.check(map[string]string{"bin": "-> {a}/bin", "man": "-> {b}/man"})
}

func TestBuildenvConflicts(t *testing.T) {
	w, err := environment(t, func(w *world) []string {
		return []string{"true 5 1", w.add(map[string]string{"bin/x": "1"}), "true 5 1", w.add(map[string]string{"bin/x": "2"})}
	})
	e, ok := errors.AsType[*ConflictError](err)
	a, b := strings.Repeat("a", 32)+"-object/bin/x", strings.Repeat("b", 32)+"-object/bin/x"
	if !ok || e.Priority != 5 || !strings.HasSuffix(e.FileA, a) || !strings.HasSuffix(e.FileB, b) {
		t.Fatal(err)
	}
	for _, part := range []string{"There is a conflict for the following files:", `"/nix/store/` + a + `"`, `"/nix/store/` + b + `"`, "priority 5"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %q", part, err)
		}
	}
	if w == nil {
		t.Fatal()
	}
	for _, c := range []struct{ first, second map[string]string }{
		{map[string]string{"x": "file"}, map[string]string{"x/y": ""}},
		{map[string]string{"d/x/y": "", "d/z": ""}, map[string]string{"d/x": "file"}},
	} {
		_, err := environment(t, func(w *world) []string {
			return []string{"true 5 1", w.add(c.first), "true 6 1", w.add(map[string]string{"d/x/2": ""}), "true 7 1", w.add(c.second)}
		})
		if err == nil || !strings.Contains(err.Error(), "collision between") || !strings.Contains(err.Error(), "non-directory") {
			t.Errorf("%v and %v: %v", c.first, c.second, err)
		}
	}
}

// What packages bring along comes last, in rounds.
func TestBuildenvPropagated(t *testing.T) {
	w, err := environment(t, func(w *world) []string {
		list := "nix-support/propagated-user-env-packages"
		third := w.add(map[string]string{"bin/x": "3", "bin/third": ""})
		second := w.add(map[string]string{"bin/x": "2", "bin/second": "", list: third + "\n"})
		other := w.add(map[string]string{"bin/other": "", list: second})
		first := w.add(map[string]string{"bin/x": "1", list: second + " " + other + " \n"})
		return []string{"true 1500 1", first}
	})
	if err != nil {
		t.Fatal(err)
	}
	// The numbers of rounds go on from 1000, and 1000 is less than 1500.
	w.check(map[string]string{
		"bin/x": "-> {b}/bin/x", "bin/second": "-> {b}/bin/second", "bin/other": "-> {c}/bin/other", "bin/third": "-> {a}/bin/third",
	})
}

func TestBuildenvMalformed(t *testing.T) {
	for _, list := range []string{"true", "true 5", "true five 1 /x", "true 5 -1", "true 5 2 /x", "true 99999999999 1 /x", "true 5 99999999999999999999"} {
		_, err := environment(t, func(*world) []string { return []string{list} })
		if err == nil || !strings.Contains(err.Error(), "'derivations' is malformed") {
			t.Errorf("%q: %v", list, err)
		}
	}
	for _, p := range []string{"/nix/store/" + strings.Repeat("z", 32) + "-gone", "/etc", "relative", "/nix/store"} {
		if _, err := environment(t, func(*world) []string { return []string{"true 5 1 " + p} }); err == nil {
			t.Errorf("%s: no error", p)
		}
	}
}

// Packages can be made so that merging them never ends.
func TestBuildenvEndless(t *testing.T) {
	loops := map[string]string{"a": "-> .", "x": ""}
	_, err := environment(t, func(w *world) []string {
		return []string{"true 5 1", w.add(loops), "true 6 1", w.add(loops)}
	})
	if !errors.Is(err, unix.ELOOP) {
		t.Error(err)
	}
	deep := strings.Repeat("d/", nar.MaxDepth)
	_, err = environment(t, func(w *world) []string {
		return []string{"true 5 1", w.add(map[string]string{deep + "1": ""}), "true 6 1", w.add(map[string]string{deep + "2": ""})}
	})
	if !errors.Is(err, nar.ErrTooDeep) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("never mind")
	cancel(stop)
	w := newWorld(t, "buildenv", map[string]string{"manifest": "/m"})
	w.Drv.Env["derivations"] = "true 5 1 " + w.add(loops)
	if err := w.runWith(ctx); err != stop {
		t.Errorf("cancelled: %v", err)
	}
}

// What a builder in a sandbox would not see does not show here either, although
// this process can read it.
func TestBuildenvStaysInside(t *testing.T) {
	secret := t.TempDir()
	makeTree(t, secret, map[string]string{"dir/name-of-a-secret": ""})
	w, err := environment(t, func(w *world) []string {
		hidden := w.add(map[string]string{"x/hidden-name": ""})
		w.Visible = func(p storepath.Path) bool { return string(w.Dir)+"/"+p.Base() != hidden }
		return []string{
			"true 5 1", w.add(map[string]string{"d": "-> " + secret + "/dir", "h": "-> " + hidden + "/x", "r": "-> " + w.real}),
			"true 5 1", w.add(map[string]string{"d/1": "", "h/2": "", "r/3": ""}),
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	w.check(map[string]string{"d": "-> {c}/d", "h": "-> {c}/h", "r": "-> {c}/r"})
	if !w.warned("skipping dangling symlink '/nix/store/") {
		t.Errorf("warnings %q", w.said.All())
	}

	// Without a sandbox it does.
	if err := os.RemoveAll(w.Outputs["out"]); err != nil {
		t.Fatal(err)
	}
	w.Outside = Everything
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	if got := w.output()["d/name-of-a-secret"]; got != "-> "+filepath.Join(secret, "dir", "name-of-a-secret") {
		t.Errorf("%q", w.output())
	}
}

func TestViewOfThePublic(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "strata-view-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	makeTree(t, dir, map[string]string{"open": "x", "closed": "x", "room/open": "x", "link": "-> open", "out": "-> closed", "in": "-> room/open"})
	for name, mode := range map[string]os.FileMode{"": 0o755, "closed": 0o600, "room": 0o700} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t, "buildenv", nil)
	object := w.add(map[string]string{"f": "x", "up": "-> ../../../../../.." + dir + "/open"})
	if err := os.Chmod(filepath.Join(w.real, filepath.Base(object), "f"), 0o600); err != nil {
		t.Fatal(err)
	}
	for access, want := range map[Access][]string{
		Nothing:    {object + "/f"},
		Public:     {object + "/f", object + "/up", dir + "/open", dir + "/link"},
		Everything: {object + "/f", object + "/up", dir + "/open", dir + "/link", dir + "/closed", dir + "/out", dir + "/in", dir + "/room/open"},
	} {
		w.Outside = access
		allowed := make(map[string]bool)
		for _, p := range want {
			allowed[p] = true
		}
		for _, p := range []string{
			object + "/f", object + "/up", dir + "/open", dir + "/link", dir + "/closed", dir + "/out", dir + "/in", dir + "/room/open",
			object, dir, "/dev/null", object + "/f/x", object + "/none", "relative",
		} {
			f, err := newView(&w.Build).open(p)
			if (err == nil) != allowed[p] {
				t.Errorf("access %d to %s: %v", access, p, err)
			}
			if err == nil {
				f.Close()
			}
		}
	}
}

// Nothing is left open.
func TestViewClosesFiles(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	w := newWorld(t, "buildenv", nil)
	object := w.add(map[string]string{"a/b/c": "x", "l": "-> a/../a/b/c", "loop": "-> loop", "abs": "-> /nix/store/../store/gone"})
	v := newView(&w.Build)
	before := count()
	for i := range 20 {
		for _, p := range []string{"/a/b/c", "/l", "/loop", "/abs", "/a/none", "/a/b/c/d", ""} {
			if at, err := v.find(object + p); err == nil {
				at.close()
			} else if i == 0 && (p == "" || p == "/l") {
				t.Errorf("%s: %v", p, err)
			}
		}
	}
	if after := count(); after > before+2 {
		t.Errorf("%d files are open, %d were", after, before)
	}
}

func BenchmarkBuildenv(b *testing.B) {
	t := new(testing.T)
	w := &world{t: t, real: b.TempDir()}
	w.Dir = storepath.DefaultDir
	var words []string
	for range 20 {
		files := make(map[string]string)
		for i := range 100 {
			files[fmt.Sprintf("share/%d/%d-%d", i%10, w.next, i)] = ""
		}
		words = append(words, "true 5 1", w.add(files))
	}
	pkgs, err := parsePackages(strings.Join(words, " "))
	if err != nil {
		b.Fatal(err)
	}
	build := &Build{Dir: storepath.DefaultDir, RealDir: w.real}
	for b.Loop() {
		p := &profile{ctx: b.Context(), view: newView(build), out: "/out", root: newNode(), done: make(map[string]bool)}
		if err := p.addAll(pkgs); err != nil {
			b.Fatal(err)
		}
	}
}
