package execute_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/storepath"
)

// busybox is a shell that needs nothing else.
const busybox = "/bin/busybox"

// backing is what tests need of a store.
type backing interface {
	execute.Store
	store.Lister
	store.LogQuerier
	store.TempRooter
	store.Adder
	store.DumpAdder
	store.NarSource
}

// world is a store in which things are built.
type world struct {
	backing
	opts  execute.Options
	heard *sink
}

// sink writes down what clients hear.
type sink struct {
	mu     sync.Mutex
	lines  []string // of the log
	logged []string
	phases []string
	deaf   bool // keeps no lines
	// first is closed at the first line, if it is not nil.
	first chan struct{}
}

func (s *sink) add(list *[]string, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*list = append(*list, text)
}

func (s *sink) Log(_ activity.Level, text string) { s.add(&s.logged, text) }
func (s *sink) Start(activity.Event)              {}
func (s *sink) Stop(uint64)                       {}
func (s *sink) Result(_ uint64, what activity.ResultType, f []activity.Field) {
	switch what {
	case activity.BuildLogLine:
		if s.deaf {
			return
		}
		s.add(&s.lines, f[0].Text)
		if s.first != nil {
			close(s.first)
			s.first = nil
		}
	case activity.SetPhase:
		s.add(&s.phases, f[0].Text)
	case activity.PostBuildLogLine:
		s.add(&s.logged, f[0].Text)
	}
}

// boxed makes a store whose builders must run in a sandbox, in which there is a
// shell.
func boxed(t testing.TB) *world {
	t.Helper()
	if able := sandbox.Probe(t.Context()); able.Isolation != nil {
		testenv.Skip(t, able.Isolation.Error())
	}
	return newWorld(t, local.Options{Root: testenv.Scratch(t)}, execute.Options{
		SandboxPaths: []execute.SandboxPath{{Target: "/bin/sh", Source: busybox}},
	})
}

// unboxed makes a store whose builders run without a sandbox.
func unboxed(t testing.TB) *world {
	t.Helper()
	dir := testenv.Scratch(t)
	return newWorld(t, local.Options{Dir: storepath.Dir(dir + "/s"), Root: dir, Real: dir + "/s"}, execute.Options{Sandbox: execute.Unboxed})
}

func newWorld(t testing.TB, o local.Options, e execute.Options) *world {
	t.Helper()
	if _, err := os.Stat(busybox); err != nil {
		testenv.Skip(t, "there is no "+busybox+"; install busybox-static")
	}
	s, err := local.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &world{backing: s, opts: e, heard: &sink{}}
}

// each runs a test in both kinds of worlds.
func each(t *testing.T, f func(t *testing.T, w *world)) {
	t.Run("boxed", func(t *testing.T) { f(t, boxed(t)) })
	t.Run("unboxed", func(t *testing.T) { f(t, unboxed(t)) })
}

// script is a derivation that runs a script, with the output out and others.
func script(text string, outputs ...string) *derivation.Derivation {
	d := &derivation.Derivation{Basic: derivation.Basic{
		Name: "x", Platform: "x86_64-linux", Builder: "/bin/sh", Args: []string{"-ec", text},
		Outputs: map[string]derivation.Output{}, Env: map[string]string{},
	}}
	for _, name := range append(outputs, "out") {
		d.Outputs[name] = derivation.Output{Kind: derivation.Deferred}
	}
	return d
}

// flat makes the output of d fixed.
func flat(d *derivation.Derivation, contents string) *derivation.Derivation {
	d.Outputs = map[string]derivation.Output{"out": {Kind: derivation.Fixed, CA: storepath.ContentAddress{
		Method: storepath.Flat, Hash: nixhash.Of(nixhash.SHA256, contents),
	}}}
	return d
}

// job prepares a derivation that is not in the store, as goals do.
func (w *world) job(t testing.TB, d *derivation.Derivation) *execute.Job {
	t.Helper()
	if w.opts.Sandbox == execute.Unboxed && d.Builder == "/bin/sh" {
		// The same shell as in a sandbox, with the same commands.
		d.Builder, d.Args = busybox, append([]string{"sh"}, d.Args...)
	}
	if err := derivation.NewHasher(w.Dir(), w.Derivation).FillIn(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	for name, o := range d.Outputs {
		if p, err := o.StorePath(w.Dir(), d.Name, name); err != nil {
			t.Fatal(err)
		} else if !p.IsZero() {
			d.Env[name] = w.Dir().Print(p)
		} else {
			d.Env[name] = derivation.OutputPlaceholder(name)
		}
	}
	return w.jobOf(t, d)
}

// jobOf prepares a derivation that is complete.
func (w *world) jobOf(t testing.TB, d *derivation.Derivation) *execute.Job {
	t.Helper()
	ctx := t.Context()
	m, err := derivation.NewHasher(w.Dir(), w.Derivation).Modulo(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	drv, err := d.StorePath(w.Dir())
	if err != nil {
		t.Fatal(err)
	}
	inputs, err := store.Closure(ctx, w, d.InputSrcs)
	if err != nil {
		t.Fatal(err)
	}
	j := &execute.Job{DrvPath: drv, Drv: &d.Basic, Inputs: inputs, Hashes: m.Hashes, Outputs: map[string]execute.Output{}, Roots: w.NewTempRoots()}
	t.Cleanup(func() { _ = j.Roots.Close() })
	paths, err := d.OutputPaths(w.Dir())
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range paths {
		if d.Outputs[name].Kind == derivation.Impure {
			p = storepath.Path{}
		}
		valid := false
		if !p.IsZero() {
			v, err := w.ValidPaths(ctx, []storepath.Path{p})
			if err != nil {
				t.Fatal(err)
			}
			valid = len(v) > 0
		}
		j.Outputs[name] = execute.Output{Path: p, Valid: valid}
	}
	return j
}

// run builds a job, and sees to it that nothing is left of that.
func (w *world) run(t *testing.T, j *execute.Job) (*store.BuildResult, error) {
	t.Helper()
	return w.runIn(t.Context(), t, j)
}

func (w *world) runIn(ctx context.Context, t *testing.T, j *execute.Job) (*store.BuildResult, error) {
	t.Helper()
	ctx = activity.With(ctx, w.heard)
	r, err := execute.New(w.backing, w.opts).Build(ctx, j)
	if !w.opts.KeepFailed {
		w.clean(t)
	}
	return r, err
}

// clean complains about what is left of builds.
func (w *world) clean(t *testing.T) {
	t.Helper()
	if left := names(t, filepath.Join(w.StateDir(), "builds")); len(left) > 0 {
		t.Errorf("left among build directories: %q", left)
	}
	var valid []string
	for p, err := range w.AllPaths(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		valid = append(valid, p.Base())
	}
	for _, name := range names(t, w.RealDir()) {
		if !slices.Contains(valid, name) && !gc.IsTempName(name) && name != ".links" {
			t.Errorf("left in the store directory: %s", name)
		}
	}
}

// build builds what must be built.
func (w *world) build(t *testing.T, d *derivation.Derivation) *store.BuildResult {
	t.Helper()
	r, err := w.run(t, w.job(t, d))
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != store.Built {
		t.Fatalf("status %d: %s\nlog: %q", r.Status, r.Message, w.heard.lines)
	}
	return r
}

// fails builds what must fail.
func (w *world) fails(t *testing.T, d *derivation.Derivation, want store.BuildStatus) *store.BuildResult {
	t.Helper()
	r, err := w.run(t, w.job(t, d))
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != want {
		t.Errorf("status %d instead of %d: %s\nlog: %q", r.Status, want, r.Message, w.heard.lines)
	}
	return r
}

// text reads an output that is a file.
func (w *world) text(t *testing.T, r *store.BuildResult, output string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.RealDir(), r.Outputs[output].OutPath.Base()))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func readAll(r io.ReadCloser) ([]byte, error) {
	defer r.Close()
	return io.ReadAll(r)
}
