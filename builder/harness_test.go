package builder_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder"
	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/storepath"
)

// world is a store with an executor that builds nothing much, but counts.
type world struct {
	t testing.TB
	s *local.Store
	b *builder.Builder
	v builder.View

	mu      sync.Mutex
	built   []string // names of derivations, in the order in which their builds began
	running int
	most    int // that ran at once

	// run, if not nil, is called for each build before anything is made; what it
	// gives, if not nil, is the result.
	run func(ctx context.Context, job *execute.Job) (*store.BuildResult, error)
}

func newWorld(t testing.TB, features ...string) *world {
	t.Helper()
	s, err := local.Open(t.Context(), local.Options{
		Root: testenv.Scratch(t), CADerivations: slices.Contains(features, "ca-derivations"), NoSync: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	w := &world{t: t, s: s}
	w.b = builder.New(func(builder.Store, execute.Options) builder.Executor { return w })
	w.v = builder.View{Store: s, Options: builder.Options{
		MaxJobs: 4, System: "x86_64-linux",
		Execute: execute.Options{Features: features},
	}}
	return w
}

// Build is the executor.
func (w *world) Build(ctx context.Context, job *execute.Job) (*store.BuildResult, error) {
	w.mu.Lock()
	w.built = append(w.built, job.Drv.Name)
	w.running++
	w.most = max(w.most, w.running)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.running--
		w.mu.Unlock()
	}()
	ctx, act := activity.Start(ctx, activity.Info, activity.Build, "building '"+job.Drv.Name+"'")
	defer act.Stop()
	if w.run != nil {
		if result, err := w.run(ctx, job); result != nil || err != nil {
			return result, err
		}
	}
	result := &store.BuildResult{Status: store.Built, TimesBuilt: 1, Start: 1, Stop: 2, Outputs: map[string]*store.Realisation{}}
	if job.Mode == store.BuildCheck {
		return result, nil
	}
	for name, o := range job.Drv.Outputs {
		if at := job.Outputs[name]; at.Valid && (job.Mode != store.BuildRepair || at.Intact) {
			continue
		}
		p, err := w.make(ctx, job, name, o)
		if err != nil {
			return nil, err
		}
		id := store.DrvOutput{DrvHash: job.Hashes[name], Output: name}
		result.Outputs[name] = &store.Realisation{ID: id, OutPath: p}
	}
	if kind, _ := job.Drv.Kind(); kind == derivation.Floating {
		return result, w.s.RegisterRealisations(ctx, slices.Collect(maps.Values(result.Outputs)))
	}
	return result, nil
}

// make makes an output, whose contents are the variable "contents".
func (w *world) make(ctx context.Context, job *execute.Job, name string, o derivation.Output) (storepath.Path, error) {
	contents := job.Drv.Env["contents"]
	if o.Kind == derivation.Floating || o.Kind == derivation.Impure {
		info, err := w.s.AddDump(ctx, store.Dump{
			Name: storepath.OutputName(job.Drv.Name, name), Spec: o.Spec, Contents: strings.NewReader(contents),
		}, store.AddOptions{Roots: job.Roots})
		if err != nil {
			return storepath.Path{}, err
		}
		return info.Path, nil
	}
	p, err := o.StorePath(w.s.Dir(), job.Drv.Name, name)
	if err != nil {
		return p, err
	}
	place := filepath.Join(w.s.RealDir(), p.Base())
	if err := os.WriteFile(place, []byte(contents), 0o600); err != nil {
		return p, err
	}
	var archive bytes.Buffer
	if err := nar.Dump(ctx, &archive, place); err != nil {
		return p, err
	}
	var refs []storepath.Path
	for _, in := range job.Drv.InputSrcs {
		if !in.IsDerivation() {
			refs = append(refs, in)
		}
	}
	return p, w.s.Register(ctx, []*store.PathInfo{{
		Path: p, NarHash: nixhash.Of(nixhash.SHA256, archive.String()), NarSize: uint64(archive.Len()), References: refs, Ultimate: true,
	}})
}

// drv describes a derivation for a test.
type drv struct {
	name    string
	kind    derivation.Kind // InputAddressed unless set
	outputs []string        // "out" unless set
	inputs  []storepath.Path
	nodes   map[storepath.Path]derivation.InputNode
	srcs    []storepath.Path
	env     map[string]string
	edit    func(*derivation.Derivation)
}

// add puts a derivation into the store.
func (w *world) add(d drv) storepath.Path {
	w.t.Helper()
	x := &derivation.Derivation{Basic: derivation.Basic{
		Name: d.name, Platform: "x86_64-linux", Builder: "/bin/sh", InputSrcs: storepath.SortUnique(d.srcs),
		Outputs: map[string]derivation.Output{}, Env: map[string]string{"name": d.name, "contents": d.name},
	}, InputDrvs: map[storepath.Path]derivation.InputNode{}}
	maps.Copy(x.Env, d.env)
	names := d.outputs
	if names == nil {
		names = []string{"out"}
	}
	for _, name := range names {
		o := derivation.Output{Kind: d.kind}
		switch d.kind {
		case derivation.Floating, derivation.Impure:
			o.Spec = storepath.Spec{Method: storepath.Flat, Algorithm: nixhash.SHA256}
			x.Env[name] = derivation.OutputPlaceholder(name)
		case derivation.Fixed:
			o.CA = storepath.ContentAddress{Method: storepath.Flat, Hash: nixhash.Of(nixhash.SHA256, x.Env["contents"])}
		default:
			o.Kind = derivation.Deferred
		}
		x.Outputs[name] = o
	}
	for _, in := range d.inputs {
		x.InputDrvs[in] = derivation.InputNode{Outputs: []string{"out"}}
	}
	maps.Copy(x.InputDrvs, d.nodes)
	if d.edit != nil {
		d.edit(x)
	}
	if err := derivation.NewHasher(w.s.Dir(), w.s.Derivation).FillIn(w.t.Context(), x); err != nil {
		w.t.Fatal(err)
	}
	text, err := x.ATerm(w.s.Dir())
	if err != nil {
		w.t.Fatal(err)
	}
	info, err := w.s.AddDump(w.t.Context(), store.Dump{
		Name: d.name + ".drv", Spec: storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256},
		References: x.References(), Contents: strings.NewReader(string(text)),
	}, store.AddOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return info.Path
}

// wants names outputs of derivations; without names, "out".
func wants(drv storepath.Path, outputs ...string) derivation.DerivedPath {
	if outputs == nil {
		outputs = []string{"out"}
	}
	return derivation.DerivedPath{Path: drv, Outputs: outputs}
}

func (w *world) build(targets ...derivation.DerivedPath) ([]*store.BuildResult, error) {
	return w.b.BuildPaths(w.t.Context(), w.v, targets, store.BuildNormal)
}

// mustBuild fails the test unless all succeeds.
func (w *world) mustBuild(targets ...derivation.DerivedPath) []*store.BuildResult {
	w.t.Helper()
	results, err := w.build(targets...)
	if err != nil {
		w.t.Fatal(err)
	}
	for i, r := range results {
		if r == nil || !r.Status.OK() {
			w.t.Fatalf("%v: %+v", targets[i], r)
		}
	}
	return results
}

// began gives what was built since it was asked last.
func (w *world) began() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.built
	w.built = nil
	return out
}

func (w *world) expect(want ...string) {
	w.t.Helper()
	if got := w.began(); !slices.Equal(got, want) {
		w.t.Errorf("built %q, not %q", got, want)
	}
}

// failing makes builds of derivations with these names fail.
func (w *world) failing(names ...string) {
	w.run = func(_ context.Context, job *execute.Job) (*store.BuildResult, error) {
		if slices.Contains(names, job.Drv.Name) {
			return &store.BuildResult{Status: store.PermanentFailure, Message: "Cannot build '" + job.Drv.Name + "'."}, nil
		}
		return nil, nil
	}
}

// lines is a sink that keeps lines and starts of activities.
type lines struct {
	mu   sync.Mutex
	all  []string
	open map[uint64]activity.Event
}

func newLines() *lines { return &lines{open: map[uint64]activity.Event{}} }

func (l *lines) add(s string) { l.mu.Lock(); l.all = append(l.all, s); l.mu.Unlock() }

func (l *lines) Log(_ activity.Level, text string) { l.add(text) }
func (l *lines) Start(e activity.Event) {
	l.mu.Lock()
	l.open[e.ID] = e
	l.mu.Unlock()
	l.add("start " + e.Text)
}

func (l *lines) Stop(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, id)
}

func (l *lines) Result(_ uint64, what activity.ResultType, fields []activity.Field) {
	if what == activity.BuildLogLine {
		l.add("line " + fields[0].Text)
	}
}

func (l *lines) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.all, func(s string) bool { return strings.Contains(s, text) })
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%q", l.all)
}
