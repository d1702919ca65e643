package builder_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder"
	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func TestBuildsInputsFirst(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	b := w.add(drv{name: "b", inputs: []storepath.Path{a}})
	c := w.add(drv{name: "c", inputs: []storepath.Path{a, b}})
	r := w.mustBuild(wants(c))[0]
	w.expect("a", "b", "c")
	if r.Status != store.Built || r.TimesBuilt != 1 || r.Outputs["out"].ID.DrvHash.IsZero() {
		t.Errorf("%+v", r)
	}
	again := w.mustBuild(wants(c), wants(b), derivation.DerivedPath{Path: a})
	w.expect()
	for _, r := range again {
		if r.Status != store.AlreadyValid {
			t.Errorf("%+v", r)
		}
	}
	if again[0].Outputs["out"].OutPath != r.Outputs["out"].OutPath || again[0].Outputs["out"].ID != r.Outputs["out"].ID {
		t.Errorf("%+v, and then %+v", r, again[0])
	}
}

func TestOutputsOfOneDerivationAreBuiltOnce(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a", outputs: []string{"out", "dev", "doc"}})
	results := w.mustBuild(wants(a, "dev"), wants(a, "doc", "out"), wants(a, "*"))
	w.expect("a")
	for i, want := range [][]string{{"dev"}, {"doc", "out"}, {"dev", "doc", "out"}} {
		if got := len(results[i].Outputs); got != len(want) {
			t.Errorf("%d outputs, not %q", got, want)
		}
		for _, name := range want {
			if results[i].Outputs[name] == nil {
				t.Errorf("no output %s in %+v", name, results[i])
			}
		}
	}
}

func TestFailuresOfDependencies(t *testing.T) {
	for _, keepGoing := range []bool{false, true} {
		w := newWorld(t)
		w.v.Options.KeepGoing, w.v.Options.MaxJobs = keepGoing, 1
		bad1, bad2 := w.add(drv{name: "bad1"}), w.add(drv{name: "bad2"})
		good := w.add(drv{name: "good"})
		top := w.add(drv{name: "top", inputs: []storepath.Path{bad1, bad2, good}})
		last := w.add(drv{name: "last", inputs: []storepath.Path{good}})
		w.failing("bad1", "bad2")
		said := newLines()
		results, err := w.b.BuildPaths(activity.With(t.Context(), said), w.v, []derivation.DerivedPath{wants(top), wants(last)}, store.BuildNormal)
		if err != nil {
			t.Fatal(err)
		}
		r := results[0]
		want := "Cannot build '" + w.s.Dir().Print(top) + "'.\nReason: 1 dependency failed.\nOutput paths:\n  /nix/store/"
		if keepGoing {
			want = strings.Replace(want, "1 dependency", "2 dependencies", 1)
		}
		if r.Status != store.DependencyFailed || r.ExitStatus != 100 || !strings.HasPrefix(r.Message, want) {
			t.Errorf("%+v, not %q", r, want)
		}
		if !said.has("error: Cannot build 'bad1'.") || said.has("error: Cannot build 'bad2'.") != keepGoing {
			t.Errorf("told: %v", said)
		}
		if keepGoing {
			w.expect("bad1", "bad2", "good", "last")
			if !results[1].Status.OK() {
				t.Errorf("%+v", results[1])
			}
		} else {
			w.expect("bad1")
			if results[1] != nil {
				t.Errorf("what was given up has the result %+v", results[1])
			}
		}
	}
}

func TestJobsAreLimited(t *testing.T) {
	w := newWorld(t)
	w.v.Options.MaxJobs = 2
	together := make(chan struct{})
	w.run = func(ctx context.Context, _ *execute.Job) (*store.BuildResult, error) {
		select { // two by two
		case together <- struct{}{}:
		case <-together:
		case <-ctx.Done():
		}
		return nil, nil
	}
	var targets []derivation.DerivedPath
	for i := range 8 {
		targets = append(targets, wants(w.add(drv{name: fmt.Sprint("d", i)})))
	}
	w.mustBuild(targets...)
	if w.most != 2 || len(w.began()) != 8 {
		t.Errorf("%d builds at once", w.most)
	}
}

func TestRejections(t *testing.T) {
	w := newWorld(t)
	other := w.add(drv{name: "other", edit: func(d *derivation.Derivation) { d.Platform = "riscv64-linux" }})
	kvm := w.add(drv{name: "kvm", env: map[string]string{"requiredSystemFeatures": "kvm"}})
	builtin := w.add(drv{name: "builtin", edit: func(d *derivation.Derivation) { d.Platform, d.Builder = "builtin", "builtin:buildenv" }})
	w.v.Options.Execute.SystemFeatures = []string{"nixos-test", "benchmark"}
	w.mustBuild(wants(builtin))
	for _, c := range []struct {
		drv     storepath.Path
		maxJobs uint
		want    string
	}{
		{other, 1, "\nReason: platform mismatch\nRequired system: 'riscv64-linux'\nCurrent system: 'x86_64-linux'"},
		{kvm, 1, "\nReason: missing system features\nRequired features: {kvm}\nAvailable features: {benchmark, nixos-test}"},
		{kvm, 0, "\nReason: local builds are disabled (max-jobs = 0)\nHint: "},
	} {
		w.v.Options.MaxJobs = c.maxJobs
		results, err := w.build(wants(c.drv))
		if err != nil {
			t.Fatal(err)
		}
		want := "Cannot build '" + w.s.Dir().Print(c.drv) + "'." + c.want
		if r := results[0]; r.Status != store.InputRejected || r.ExitStatus != 100 || !strings.HasPrefix(r.Message, want) {
			t.Errorf("%+v, not %q", r, want)
		}
	}
	w.v.Options.MaxJobs, w.v.Options.ExtraPlatforms = 1, []string{"riscv64-linux"}
	w.mustBuild(wants(other))
}

func TestWhatMakesNoSense(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	nobody, _ := storepath.ParseBase("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-nobody.drv")
	if _, err := w.build(wants(a, "doc")); err == nil || !strings.Contains(err.Error(), "does not have output 'doc'") {
		t.Errorf("an output that there is not: %v", err)
	}
	results, err := w.build(wants(nobody))
	if err != nil || results[0].Status != store.DependencyFailed || !strings.Contains(results[0].Message, "failed to obtain derivation of '/nix/store/g1w7") {
		t.Errorf("a derivation that there is not: %+v, %v", results, err)
	}
	results, err = w.build(derivation.DerivedPath{Path: nobody}, wants(a))
	if err != nil || results[0].Status != store.NoSubstituters || results[1] == nil || results[1].Status != store.Built ||
		!strings.Contains(results[0].Message, "is required, but there is no substituter that can build it") {
		t.Errorf("a path that there is not: %+v, %v", results, err)
	}
	ca := w.add(drv{name: "ca", kind: derivation.Floating})
	if _, err := w.build(wants(ca)); err == nil || !strings.Contains(err.Error(), "experimental Nix feature 'ca-derivations' is disabled") {
		t.Errorf("a feature that is off: %v", err)
	}
}

func TestNothingIsWrittenToWhatIsNotWritable(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	w.mustBuild(wants(a))
	w.began()
	b := w.add(drv{name: "b"})
	w.v.Writable = func() error { return store.ErrReadOnly }
	w.mustBuild(wants(a)) // nothing is
	if _, err := w.build(wants(b)); !errors.Is(err, store.ErrReadOnly) {
		t.Error(err)
	}
	w.expect()
}

func TestEnsurePath(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	if err := w.b.EnsurePath(t.Context(), w.v, a); err != nil {
		t.Error(err)
	}
	nobody, _ := storepath.ParseBase("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-nobody")
	err := w.b.EnsurePath(t.Context(), w.v, nobody)
	var failure *builder.Failure
	if !errors.As(err, &failure) || failure.ExitStatus() != 1 || !strings.Contains(err.Error(), w.s.Dir().Print(nobody)) {
		t.Errorf("ensuring what cannot be had: %v", err)
	}
}

func TestErrorsOfTheExecutorEndTheRequest(t *testing.T) {
	w := newWorld(t)
	w.v.Options.KeepGoing = true
	a, b := w.add(drv{name: "a"}), w.add(drv{name: "b"})
	broken := errors.New("the disk is on fire")
	w.run = func(ctx context.Context, job *execute.Job) (*store.BuildResult, error) {
		if job.Drv.Name == "a" {
			return nil, broken
		}
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	if _, err := w.build(wants(b), wants(a)); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func TestCheck(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	b := w.add(drv{name: "b", inputs: []storepath.Path{a}})
	check := func() ([]*store.BuildResult, error) {
		return w.b.BuildPaths(t.Context(), w.v, []derivation.DerivedPath{wants(b)}, store.BuildCheck)
	}
	if _, err := check(); err == nil || !strings.Contains(err.Error(), "are not valid, so checking is not possible") {
		t.Errorf("checking what was never built: %v", err)
	}
	first := w.mustBuild(wants(b))[0]
	w.began()
	results, err := check()
	if err != nil || !results[0].Status.OK() || results[0].Outputs["out"].OutPath != first.Outputs["out"].OutPath {
		t.Errorf("%+v, %v", results, err)
	}
	w.expect("b")
	w.run = func(context.Context, *execute.Job) (*store.BuildResult, error) {
		return &store.BuildResult{Status: store.NotDeterministic, Message: "differs", NonDeterministic: true}, nil
	}
	results, err = check()
	if err != nil || results[0].Status != store.NotDeterministic || results[0].ExitStatus != 104 {
		t.Errorf("%+v, %v", results, err)
	}
}

func TestBuildDerivation(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	d, err := w.s.Derivation(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.b.BuildDerivation(t.Context(), w.v, a, &d.Basic, store.BuildNormal)
	if err != nil || r.Status != store.Built || r.Outputs["out"].OutPath != d.Outputs["out"].Path {
		t.Errorf("%+v, %v", r, err)
	}
	d.Builder = "/bin/bash"
	if r, err = w.b.BuildDerivation(t.Context(), w.v, a, &d.Basic, store.BuildNormal); err != nil || r.Status != store.AlreadyValid {
		t.Errorf("%+v, %v", r, err)
	}
	d.Env["requiredSystemFeatures"], d.Env["__json"] = "", "[]"
	if r, err = w.b.BuildDerivation(t.Context(), w.v, a, &d.Basic, store.BuildNormal); err != nil || r.Status != store.MiscFailure {
		t.Errorf("a derivation that makes no sense: %+v, %v", r, err)
	}
}

func TestQueryMissing(t *testing.T) {
	w := newWorld(t)
	a := w.add(drv{name: "a"})
	b := w.add(drv{name: "b", inputs: []storepath.Path{a}})
	c := w.add(drv{name: "c", inputs: []storepath.Path{a, b}})
	nobody, _ := storepath.ParseBase("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-nobody")
	check := func(targets []derivation.DerivedPath, build, unknown []storepath.Path) {
		t.Helper()
		m, err := w.b.QueryMissing(t.Context(), w.v, targets)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(m.WillBuild, storepath.SortUnique(build)) || !slices.Equal(m.Unknown, unknown) || len(m.WillSubstitute) != 0 {
			t.Errorf("%v: %+v", targets, m)
		}
	}
	check(nil, nil, nil)
	check([]derivation.DerivedPath{{Path: a}}, nil, nil)
	check([]derivation.DerivedPath{{Path: nobody}, wants(nobody)}, nil, []storepath.Path{nobody})
	check([]derivation.DerivedPath{wants(c)}, []storepath.Path{a, b, c}, nil)
	check([]derivation.DerivedPath{wants(c, derivation.AllOutputs)}, []storepath.Path{a, b, c}, nil)
	w.mustBuild(wants(a))
	check([]derivation.DerivedPath{wants(a)}, nil, nil)
	check([]derivation.DerivedPath{wants(c)}, []storepath.Path{b, c}, nil)
	if _, err := w.b.QueryMissing(t.Context(), w.v, []derivation.DerivedPath{wants(a, "doc")}); err == nil {
		t.Error("an output that there is not was planned")
	}
}
