package output_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/builder/output"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// backing is a store in which things are built.
type backing interface {
	store.Store
	store.Directory
	store.Adder
	store.Registrar
	store.RealisationQuerier
	store.Verifier
	store.Collector
	Derivation(ctx context.Context, p storepath.Path) (*derivation.Derivation, error)
}

// world is a store, and a place where builders leave outputs.
type world struct {
	backing
	chroot string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := local.Open(t.Context(), local.Options{Root: testenv.Scratch(t), CADerivations: true, GitHashing: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return worldOf(t, s)
}

func worldOf(t testing.TB, s backing) *world {
	t.Helper()
	w := &world{backing: s, chroot: filepath.Join(s.RealDir(), "scratch.chroot")}
	if err := os.Mkdir(w.chroot, 0o755); err != nil {
		t.Fatal(err)
	}
	return w
}

// add makes an object valid.
func (w *world) add(t *testing.T, o storetest.Object) *store.PathInfo {
	t.Helper()
	if err := w.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
		t.Fatal(err)
	}
	return o.Info
}

// basic is a derivation of one kind of outputs.
func basic(o derivation.Output, outputs ...string) *derivation.Derivation {
	d := &derivation.Derivation{Basic: derivation.Basic{
		Name: "x", Platform: "x86_64-linux", Builder: "/bin/sh",
		Outputs: map[string]derivation.Output{}, Env: map[string]string{"name": "x"},
	}}
	for _, name := range outputs {
		d.Outputs[name] = o
		d.Env[name] = ""
	}
	return d
}

var inputAddressed = derivation.Output{Kind: derivation.Deferred} // until FillIn

func floating(m storepath.Method) derivation.Output {
	return derivation.Output{Kind: derivation.Floating, Spec: storepath.Spec{Method: m, Algorithm: nixhash.SHA256}}
}

func fixed(m storepath.Method, h nixhash.Hash) derivation.Output {
	return derivation.Output{Kind: derivation.Fixed, CA: storepath.ContentAddress{Method: m, Hash: h}}
}

// where says which path a builder knows an output by.
type where int

const (
	elsewhere where = iota // at a path that it will not have, as without sandbox
	atFinal                // at the final path, as in a sandbox
)

// job makes the job of a derivation whose outputs are not there yet.
func (w *world) job(t testing.TB, d *derivation.Derivation, at where, inputs ...*store.PathInfo) *output.Job {
	t.Helper()
	for _, in := range inputs {
		d.InputSrcs = storepath.SortUnique(append(d.InputSrcs, in.Path))
	}
	hasher := derivation.NewHasher(w.Dir(), w.Derivation)
	if err := hasher.FillIn(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	m, err := hasher.Modulo(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	drv, err := d.StorePath(w.Dir())
	if err != nil {
		t.Fatal(err)
	}
	attrs, err := d.Basic.Options(w.Dir())
	if err != nil {
		t.Fatal(err)
	}
	job := &output.Job{DrvPath: drv, Drv: &d.Basic, Attrs: attrs, Hashes: m.Hashes, Outputs: map[string]output.Output{}}
	job.Inputs, err = store.Closure(t.Context(), w, d.InputSrcs)
	if err != nil {
		t.Fatal(err)
	}
	paths, err := d.OutputPaths(w.Dir())
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range paths {
		out := output.Output{Path: p, Scratch: p}
		if at == elsewhere || p.IsZero() {
			out.Scratch = scratchPath(t, w.Dir(), drv, name)
		}
		out.Real = filepath.Join(w.chroot, out.Scratch.Base())
		if err := testenv.RemoveAll(out.Real); err != nil {
			t.Fatal(err)
		}
		job.Outputs[name] = out
	}
	return job
}

// scratchPath is where stock Nix builds an output whose path it does not know.
func scratchPath(t testing.TB, dir storepath.Dir, drv storepath.Path, name string) storepath.Path {
	t.Helper()
	zero, err := nixhash.New(nixhash.SHA256, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	drvName, err := derivation.NameFromPath(drv)
	if err != nil {
		t.Fatal(err)
	}
	p, err := dir.Fingerprint("rewrite:"+drv.Base()+":name:"+name, zero, storepath.OutputName(drvName, name))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// file is a file of an output, executable if its name begins with "bin/"; a symlink
// if its contents begin with "->". The name "" is the output itself. In contents,
// {out} stands for the path of output out, and {dep} for that of an input.
type file struct{ output, name, contents string }

// build leaves files where the job's builder would.
func (w *world) build(t testing.TB, job *output.Job, files ...file) {
	t.Helper()
	var pairs []string
	for name, out := range job.Outputs {
		pairs = append(pairs, "{"+name+"}", w.Dir().Print(out.Scratch))
	}
	for _, info := range job.Inputs {
		pairs = append(pairs, "{"+info.Path.Name()+"}", w.Dir().Print(info.Path))
	}
	fill := strings.NewReplacer(pairs...)
	for _, f := range files {
		path := filepath.Join(job.Outputs[f.output].Real, f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		contents := fill.Replace(f.contents)
		var err error
		if target, ok := strings.CutPrefix(contents, "->"); ok {
			err = os.Symlink(target, path)
		} else {
			mode := os.FileMode(0o644)
			if strings.HasPrefix(f.name, "bin/") {
				mode = 0o755
			}
			err = os.WriteFile(path, []byte(contents), mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// register must succeed. Nothing of the scratch outputs is left after it, and the
// store is sound.
func (w *world) register(t *testing.T, job *output.Job, o output.Options) *output.Result {
	t.Helper()
	r, err := output.Register(t.Context(), w.backing, job, o)
	if err != nil {
		t.Fatal(err)
	}
	w.isSound(t)
	left, err := os.ReadDir(w.chroot)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("%s is left of a scratch output", e.Name())
	}
	return r
}

// isSound compares all objects with their infos.
func (w *world) isSound(t *testing.T) {
	t.Helper()
	damaged, err := w.Verify(context.Background(), store.VerifyOptions{CheckContents: true})
	if err != nil || damaged {
		t.Errorf("the store is damaged: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(w.RealDir(), gc.TempName)); err == nil {
		t.Error("temporary files are left")
	}
}

// read gives the contents of a file in an object.
func (w *world) read(t *testing.T, p storepath.Path, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(w.RealDir(), p.Base(), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (w *world) isValid(t *testing.T, p storepath.Path) bool {
	t.Helper()
	v, err := w.ValidPaths(t.Context(), []storepath.Path{p})
	if err != nil {
		t.Fatal(err)
	}
	return len(v) == 1
}

// objects lists what is in the store directory.
func (w *world) objects(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(w.RealDir())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != ".links" && e.Name() != filepath.Base(w.chroot) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names
}
