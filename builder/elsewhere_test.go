package builder_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

// machine is a world that builds for another one.
type machine struct {
	*local.Store
	w    *world
	tell func(line string)
}

// BuildDerivation implements store.DerivationBuilder.
func (m machine) BuildDerivation(ctx context.Context, p storepath.Path, d *derivation.Basic, mode store.BuildMode) (*store.BuildResult, error) {
	ctx, act := activity.Start(ctx, activity.Info, activity.Build, "there")
	defer act.Stop()
	act.Result(activity.BuildLogLine, activity.Text("a line of "+d.Name))
	return m.w.b.BuildDerivation(ctx, m.w.v, p, d, mode)
}

// Close keeps the store open, which belongs to the test. What a machine prints beside
// the protocol may be there only now.
func (m machine) Close() error {
	m.tell("a late line")
	return nil
}

// farm gives a world other worlds to build for it, by the names of the setting
// builders. One that is called away cannot be reached.
func (w *world) farm(builders string, features ...string) map[string]*world {
	w.v.Options.Builders = builders
	w.v.Options.PollInterval = 1 // nothing else tells of places that come free
	all := map[string]*world{}
	var mu sync.Mutex
	w.v.Options.OpenMachine = func(_ context.Context, ref store.Reference, _ *execute.Options, tell func(string)) (store.Store, error) {
		mu.Lock()
		defer mu.Unlock()
		if ref.Authority == "away" {
			return nil, errors.New("no route to host")
		}
		return machine{all[ref.Authority].s, all[ref.Authority], tell}, nil
	}
	for line := range strings.SplitSeq(builders, ";") {
		name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "ssh://"), " ")
		m := newWorld(w.t, features...)
		m.v.Options.System = "aarch64-linux"
		m.v.Options.ExtraPlatforms = []string{"x86_64-linux"}
		all[name] = m
	}
	return all
}

func TestBuildsElsewhere(t *testing.T) {
	w := newWorld(t)
	far := w.farm("ssh://a")["a"]
	w.v.Options.MaxJobs = 0
	first := w.add(drv{name: "first"})
	second := w.add(drv{name: "second", inputs: []storepath.Path{first}})
	results := w.mustBuild(wants(second))
	if got := far.began(); !slices.Equal(got, []string{"first", "second"}) || len(w.began()) > 0 {
		t.Errorf("built there: %q", got)
	}
	out := results[0].Outputs["out"].OutPath
	if results[0].Status != store.Built {
		t.Errorf("result is %+v", results[0])
	}
	info, err := store.PathInfoOf(t.Context(), w.s, out)
	if err != nil || info.Ultimate || len(info.References) == 0 {
		t.Errorf("output is %+v, %v", info, err)
	}
	log, err := w.s.BuildLog(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if line, err := bufio.NewReader(log).ReadString('\n'); line != "a line of second\n" {
		t.Errorf("log has %q, %v", line, err)
	}
	left, err := filepath.Glob(w.s.RealDir() + "/*.lock")
	if err != nil || len(left) > 0 {
		t.Errorf("locks are left: %q, %v", left, err)
	}
	// All is there now.
	w.mustBuild(wants(second))
	if got := far.began(); len(got) > 0 {
		t.Errorf("built again: %q", got)
	}
}

func TestRealisesElsewhere(t *testing.T) {
	w := newWorld(t, "ca-derivations")
	w.farm("ssh://a - - 1 1 ca-derivations", "ca-derivations")
	w.v.Options.MaxJobs = 0
	first := w.add(drv{name: "first", kind: derivation.Floating})
	second := w.add(drv{name: "second", kind: derivation.Floating, inputs: []storepath.Path{first}})
	real := w.mustBuild(wants(second))[0].Outputs["out"]
	found, err := w.s.Realisations(t.Context(), []store.DrvOutput{real.ID})
	if err != nil || found[0] == nil || found[0].OutPath != real.OutPath {
		t.Errorf("realised %+v, registered %v, %v", real, found, err)
	}
}

// What goes where.
func TestChoiceOfMachine(t *testing.T) {
	for name, c := range map[string]struct {
		builders string
		jobs     uint
		drv      drv
		want     string // the name of the machine, "" for this one, or an error
	}{
		"there by default":         {"ssh://a", 1, drv{}, "a"},
		"not what is not worth it": {"ssh://a", 1, drv{env: map[string]string{"preferLocalBuild": "1"}}, ""},
		"unless it must":           {"ssh://a", 0, drv{env: map[string]string{"preferLocalBuild": "1"}}, "a"},
		"other systems":            {"ssh://a; ssh://b aarch64-linux", 1, drv{edit: onARM}, "b"},
		"nobody has it":            {"ssh://a riscv64-linux", 1, drv{edit: onARM}, "platform mismatch"},
		"features":                 {"ssh://a - - 1 1 kvm; ssh://b - - 1 1 kvm,gpu", 1, drv{env: map[string]string{"requiredSystemFeatures": "gpu"}}, "b"},
		"the fast one":             {"ssh://a; ssh://b - - 1 2", 1, drv{}, "b"},
		"here, if there is none":   {"ssh://away", 1, drv{}, ""},
		"nowhere":                  {"ssh://away", 0, drv{}, "local builds are disabled"},
		"the next one":             {"ssh://away - - 1 9; ssh://b", 0, drv{}, "b"},
		"one without jobs":         {"ssh://a - - 0", 1, drv{}, ""},
		"nonsense":                 {"ssh://a - - x", 1, drv{}, "bad machine specification"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			all := w.farm(c.builders)
			for _, m := range all {
				m.v.Options.Execute.SystemFeatures = []string{"kvm", "gpu"}
			}
			w.v.Options.MaxJobs = c.jobs
			c.drv.name = "x"
			results, err := w.build(wants(w.add(c.drv)))
			got := ""
			for name, m := range all {
				if len(m.began()) > 0 {
					got = name
				}
			}
			switch {
			case err != nil:
				got = err.Error()
			case !results[0].Status.OK():
				got = results[0].Message
			}
			if got != c.want && (c.want == "" || !strings.Contains(got, c.want)) {
				t.Errorf("built by %q", got)
			}
		})
	}
}

func onARM(d *derivation.Derivation) { d.Platform = "aarch64-linux" }

// More than a machine takes at once waits, also for other requests.
func TestPlacesAreCounted(t *testing.T) {
	w := newWorld(t)
	far := w.farm("ssh://a - - 2")["a"]
	far.v.Options.MaxJobs = 100
	w.v.Options.MaxJobs = 0
	var wg sync.WaitGroup
	for r := range 2 {
		var targets []derivation.DerivedPath
		for i := range 6 {
			targets = append(targets, wants(w.add(drv{name: fmt.Sprintf("x%d-%d", r, i)})))
		}
		wg.Go(func() {
			if results, err := w.build(targets...); err != nil || slices.ContainsFunc(results, func(r *store.BuildResult) bool { return !r.Status.OK() }) {
				t.Errorf("%v, %v", results, err)
			}
		})
	}
	wg.Wait()
	if n := len(far.began()); n != 12 || far.most > 2 {
		t.Errorf("%d builds, %d at once", n, far.most)
	}
}

func TestFailureElsewhere(t *testing.T) {
	w := newWorld(t)
	far := w.farm("ssh://a")["a"]
	far.run = func(context.Context, *execute.Job) (*store.BuildResult, error) {
		return &store.BuildResult{Status: store.PermanentFailure, Message: "builder failed with exit code 3."}, nil
	}
	results, err := w.build(wants(w.add(drv{name: "x"})))
	if err != nil || results[0].Status != store.PermanentFailure {
		t.Fatalf("%+v, %v", results, err)
	}
	for _, part := range []string{"Cannot build '", "-x.drv'", "exit code 3", "> a line of x", "> a late line"} {
		if !strings.Contains(results[0].Message, part) {
			t.Errorf("%q is not in %q", part, results[0].Message)
		}
	}
}

const hookEnv = "BUILDER_TEST_HOOK"

// TestMain lets the test binary be a build hook.
func TestMain(m *testing.M) {
	if root := os.Getenv(hookEnv); root != "" {
		if err := beHook(root); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// beHook takes what is called "far", will not hear of anything else, and "builds"
// by writing the output itself.
func beHook(root string) error {
	r := wire.NewReader(os.Stdin)
	for r.Bool() {
		r.Text()
		r.Text()
	}
	for {
		if r.Text() != "try" {
			return r.Err()
		}
		r.Bool()
		system, drvPath, features := r.Text(), r.Text(), r.Strings()
		fmt.Fprintf(os.Stderr, "@nix {\"action\":\"msg\",\"level\":0,\"msg\":\"asked for %s %v\"}\n", system, features)
		if !strings.Contains(drvPath, "far") {
			fmt.Fprintln(os.Stderr, "# decline")
			continue
		}
		fmt.Fprintf(os.Stderr, "# accept\nssh://elsewhere\n")
		inputs, outputs := r.Strings(), r.Strings()
		fmt.Fprintf(os.NewFile(4, "output"), "building with %d inputs\n", len(inputs))
		if strings.Contains(drvPath, "fails") {
			os.Exit(7)
		}
		return makeOutputs(root, drvPath, outputs)
	}
}

func makeOutputs(root, drvPath string, outputs []string) error {
	ctx := context.Background()
	s, err := local.Open(ctx, local.Options{Root: root, NoSync: true})
	if err != nil {
		return err
	}
	p, err := s.Dir().Parse(drvPath)
	if err != nil {
		return err
	}
	d, err := s.Derivation(ctx, p)
	if err != nil {
		return err
	}
	paths, err := d.OutputPaths(s.Dir())
	if err != nil {
		return err
	}
	w := &world{s: s}
	for _, name := range outputs {
		if _, err := w.make(ctx, &execute.Job{Drv: &d.Basic}, name, derivation.Output{Kind: derivation.InputAddressed, Path: paths[name]}); err != nil {
			return err
		}
	}
	return s.Close()
}

func TestBuildHook(t *testing.T) {
	w := newWorld(t)
	root := strings.TrimSuffix(w.s.RealDir(), "/nix/store")
	w.farm("ssh://a")
	w.v.Options.BuildHook = []string{"/usr/bin/env", hookEnv + "=" + root, "/proc/self/exe"}
	if exe, err := os.Executable(); err == nil {
		w.v.Options.BuildHook[2] = exe
	}
	w.v.Options.MaxJobs = 1
	near, far := w.add(drv{name: "near"}), w.add(drv{name: "far"})
	results := w.mustBuild(wants(near), wants(far))
	if got := w.began(); !slices.Equal(got, []string{"near"}) {
		t.Errorf("built here: %q", got)
	}
	valid, err := w.s.ValidPaths(t.Context(), []storepath.Path{results[1].Outputs["out"].OutPath})
	if err != nil || len(valid) != 1 {
		t.Errorf("valid: %v, %v", valid, err)
	}
	log, err := w.s.BuildLog(t.Context(), far)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if line, err := bufio.NewReader(log).ReadString('\n'); line != "building with 0 inputs\n" {
		t.Errorf("log has %q, %v", line, err)
	}
	failed, err := w.build(wants(w.add(drv{name: "far-fails"})))
	if err != nil || failed[0].Status != store.PermanentFailure || !strings.Contains(failed[0].Message, "exit status 7") ||
		!strings.Contains(failed[0].Message, "> building with") {
		t.Errorf("%+v, %v", failed[0], err)
	}
	w.v.Options.BuildHook = []string{"/bin/false"}
	w.mustBuild(wants(w.add(drv{name: "far-too"})))
}
