package builtin

import (
	"context"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/filetransfer"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/storepath"
)

// A world is a store somewhere, and what a builder is to make there.
type world struct {
	t    *testing.T
	real string // of the store directory
	next int
	Build
	said testenv.Lines
}

func newWorld(t *testing.T, builder string, env map[string]string) *world {
	t.Helper()
	w := &world{t: t, real: filepath.Join(testenv.Scratch(t), "real")}
	if err := os.Mkdir(w.real, 0o755); err != nil {
		t.Fatal(err)
	}
	transfer := filetransfer.New(filetransfer.Options{Proxy: func(*url.URL) (*url.URL, error) { return nil, nil }})
	t.Cleanup(transfer.CloseIdle)
	w.Build = Build{
		Drv: &derivation.Basic{
			Name: "x", Platform: "builtin", Builder: "builtin:" + builder, Env: env,
			Outputs: map[string]derivation.Output{"out": {Kind: derivation.Impure}},
		},
		Outputs: map[string]string{"out": filepath.Join(w.real, strings.Repeat("0", 32)+"-out")},
		Dir:     storepath.DefaultDir, RealDir: w.real,
		Transfer: transfer,
	}
	return w
}

// add makes a store object of files: a name that ends with a slash is a
// directory, contents that begin with "-> " are a symlink, with "#!" a program.
// It gives the object's path, as builders know it.
func (w *world) add(files map[string]string) string {
	w.t.Helper()
	base := objectName(w.next)
	w.next++
	makeTree(w.t, filepath.Join(w.real, base), files)
	return string(w.Dir) + "/" + base
}

// letters can be digits of a hash part, one for each object.
const letters = "abcdfghijklmnpqrsvwxyz"

func objectName(i int) string { return strings.Repeat(letters[i:i+1], 32) + "-object" }

func makeTree(t *testing.T, root string, files map[string]string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, contents := range files {
		p := filepath.Join(root, name)
		check(os.MkdirAll(filepath.Dir(p), 0o755))
		switch target, link := strings.CutPrefix(contents, "-> "); {
		case strings.HasSuffix(name, "/"):
			check(os.MkdirAll(p, 0o755))
		case link:
			check(os.Symlink(target, p))
		case strings.HasPrefix(contents, "#!"):
			check(os.WriteFile(p, []byte(contents), 0o755))
		default:
			check(os.WriteFile(p, []byte(contents), 0o644))
		}
	}
}

func (w *world) run() error {
	return Run(activity.With(w.t.Context(), &w.said), &w.Build)
}

func (w *world) runWith(ctx context.Context) error { return Run(ctx, &w.Build) }

// output lists what was made, in the notation of add, but for programs, whose
// names end with a star.
func (w *world) output() map[string]string {
	w.t.Helper()
	found := make(map[string]string)
	out := w.Outputs["out"]
	err := filepath.WalkDir(out, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(out, p)
		switch {
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			found[name] = "-> " + target
			return err
		case d.IsDir():
			if entries, err := os.ReadDir(p); err == nil && len(entries) == 0 {
				found[name+"/"] = ""
			}
			return nil
		}
		if st, err := d.Info(); err == nil && st.Mode()&0o100 != 0 {
			name += "*"
		}
		data, err := os.ReadFile(p)
		found[name] = string(data)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return found
}

func (w *world) warned(part string) bool {
	return slices.ContainsFunc(w.said.All(), func(s string) bool { return strings.Contains(s, part) })
}
