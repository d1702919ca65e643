package local_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/strata-nix/strata/builder"
	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/storepath"
)

// rebuildVar is set for the child that is killed: how many marks it lives for, and the directory
// of its store.
const rebuildVar = "STRATA_TEST_REBUILD"

// unboxed are the options of a store that builds without a sandbox and has no substituters.
func unboxed(dir string) local.Options {
	return local.Options{
		Dir: storepath.Dir(dir + "/s"), Root: dir, Real: dir + "/s",
		Build: builder.Options{MaxJobs: 1, System: "x86_64-linux", Execute: execute.Options{Sandbox: execute.Unboxed}},
	}
}

// built adds a derivation that runs a script, after another one, and builds it.
func built(t *testing.T, s *local.Store, name, script string, inputs ...storepath.Path) (drv, out storepath.Path) {
	t.Helper()
	d := &derivation.Derivation{
		Basic: derivation.Basic{
			Name: name, Platform: "x86_64-linux", Builder: "/bin/sh", Args: []string{"-ec", script},
			Outputs: map[string]derivation.Output{"out": {Kind: derivation.Deferred}}, Env: map[string]string{"PATH": os.Getenv("PATH")},
		},
	}
	for _, in := range inputs {
		if d.InputDrvs == nil {
			d.InputDrvs = map[storepath.Path]derivation.InputNode{}
		}
		d.InputDrvs[in] = derivation.InputNode{Outputs: []string{"out"}}
	}
	must(t, derivation.NewHasher(s.Dir(), s.Derivation).FillIn(t.Context(), d))
	text, err := d.ATerm(s.Dir())
	must(t, err)
	info, err := s.AddDump(t.Context(), store.Dump{
		Name: name + ".drv", Spec: storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256},
		Contents: bytes.NewReader(text), References: inputs,
	}, store.AddOptions{})
	must(t, err)
	res, err := s.BuildPaths(t.Context(), []derivation.DerivedPath{{Path: info.Path, Outputs: []string{derivation.AllOutputs}}}, store.BuildNormal)
	must(t, err)
	if !res[0].Status.OK() {
		t.Fatalf("building %s: %s", name, res[0].Message)
	}
	outs, err := s.DerivationOutputs(t.Context(), info.Path)
	must(t, err)
	return info.Path, outs["out"]
}

// damage writes something else into the object of a path, or takes it away.
func damage(t *testing.T, s *local.Store, p storepath.Path, text string) {
	t.Helper()
	file := filepath.Join(s.RealDir(), p.Base())
	must(t, os.RemoveAll(file))
	if text != "" {
		must(t, os.WriteFile(file, []byte(text), 0o444))
	}
}

// Without a substituter what is lost or damaged is built anew, what it needs first.
func TestRepairBuildsAnew(t *testing.T) {
	for _, text := range []string{"", "damaged"} {
		t.Run("with "+strconv.Quote(text), func(t *testing.T) {
			s := open(t, unboxed(testenv.Scratch(t)))
			dep, depOut := built(t, s, "dep", "echo dep > $out")
			_, out := built(t, s, "top", `read x < `+s.Dir().Print(depOut)+`; echo "$x and top" > $out`, dep)
			damage(t, s, depOut, text)
			if text != "" { // what nothing refers to is forgotten if it is gone
				damage(t, s, out, text)
			}
			r, err := s.Check(t.Context(), check.Options{Contents: true, Repair: true})
			must(t, err)
			if left(r) > 0 || len(r.Findings) == 0 {
				t.Errorf("found were %q", sentences(r))
			}
			if got, err := os.ReadFile(filepath.Join(s.RealDir(), out.Base())); err != nil || string(got) != "dep and top\n" {
				t.Errorf("built anew it is %q, %v", got, err)
			}
			if r, err = s.Check(t.Context(), check.Options{Contents: true}); err != nil || len(r.Findings) > 0 {
				t.Errorf("the second check: %q, %v", sentences(r), err)
			}
		})
	}
}

// What a new build does not make as it was, or at all, stays a finding, and nothing else is
// touched; it goes with its referrers if that is asked for.
func TestRepairThatCannotBuild(t *testing.T) {
	for _, c := range []struct{ name, script, why string }{
		{"not the same again", "cat /proc/sys/kernel/random/uuid > $out", "not what is registered"},
		{"fails", "test ! -e $HOST/again; echo x > $out", "builder failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := testenv.Scratch(t)
			s := open(t, unboxed(dir))
			dep, depOut := built(t, s, "dep", strings.ReplaceAll(c.script, "$HOST", dir))
			_, out := built(t, s, "top", `test -e `+s.Dir().Print(depOut)+`; echo `+s.Dir().Print(depOut)+` > $out`, dep)
			must(t, os.WriteFile(filepath.Join(dir, "again"), nil, 0o600))
			damage(t, s, depOut, "damaged")
			r, err := s.Check(t.Context(), check.Options{Contents: true, Repair: true})
			must(t, err)
			if left(r) != 1 || !strings.Contains(fmt.Sprint(r.Findings[0].Err), c.why) {
				t.Errorf("left are %q: %v", sentences(r), r.Findings)
			}
			if v, err := s.ValidPaths(t.Context(), []storepath.Path{depOut, out}); err != nil || len(v) != 2 {
				t.Errorf("valid are %v, %v", v, err)
			}
			r, err = s.Check(t.Context(), check.Options{Contents: true, Repair: true, Drop: true})
			must(t, err)
			if left(r) > 0 {
				t.Errorf("with Drop left are %q", sentences(r))
			}
			if r, err = s.Check(t.Context(), check.Options{Contents: true}); err != nil || len(r.Findings) > 0 {
				t.Errorf("afterwards: %q, %v", sentences(r), err)
			}
		})
	}
}

// Killed at any mark of a repair that builds, the next one brings it to an end.
func TestKilledRebuild(t *testing.T) {
	if at := os.Getenv(rebuildVar); at != "" {
		n, dir, _ := strings.Cut(at, "?")
		marks, err := strconv.Atoi(n)
		must(t, err)
		s := open(t, unboxed(dir))
		crashpoint.KillAt(marks, nil)
		_, err = s.Check(t.Context(), check.Options{Contents: true, Repair: true})
		must(t, err)
		fmt.Println("lived")
		return
	}
	testenv.Long(t)
	dir := testenv.Scratch(t)
	s := open(t, unboxed(dir))
	dep, depOut := built(t, s, "dep", "echo dep > $out")
	_, out := built(t, s, "top", `echo `+s.Dir().Print(depOut)+` > $out`, dep)
	for marks := 0; ; marks++ {
		damage(t, s, depOut, "damaged")
		damage(t, s, out, "damaged, too")
		child := exec.Command("/proc/self/exe", "-test.run=^TestKilledRebuild$")
		child.Env = append(os.Environ(), fmt.Sprintf("%s=%d?%s", rebuildVar, marks, dir))
		text, err := child.CombinedOutput()
		lived := err == nil && strings.Contains(string(text), "lived")
		if !lived && child.ProcessState.String() != "signal: killed" {
			t.Fatalf("mark %d: %v\n%s", marks, err, text)
		}
		if r, err := s.Check(t.Context(), check.Options{Contents: true, Repair: true}); err != nil || left(r) > 0 {
			t.Errorf("killed at mark %d, the next repair leaves %q, %v", marks, sentences(r), err)
		}
		if r, err := s.Check(t.Context(), check.Options{Contents: true}); err != nil || left(r) > 0 {
			t.Errorf("killed at mark %d, after the next repair: %q, %v", marks, sentences(r), err)
		}
		if lived {
			if marks < 2 {
				t.Errorf("only %d marks were met", marks)
			}
			return
		}
	}
}
