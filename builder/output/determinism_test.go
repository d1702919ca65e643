package output_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder/output"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// rebuild is a job for outputs that the first one registered.
func (w *world) rebuild(t *testing.T, d *derivation.Derivation, r *output.Result, mode store.BuildMode) *output.Job {
	t.Helper()
	job := w.job(t, d, elsewhere)
	job.Mode = mode
	for name, out := range job.Outputs {
		out.Path, out.Valid = r.Infos[name].Path, true
		job.Outputs[name] = out
	}
	return job
}

func kinds() map[string]derivation.Output {
	return map[string]derivation.Output{
		"input-addressed": inputAddressed,
		"floating":        floating(storepath.Recursive),
	}
}

func TestCheckOfTheSame(t *testing.T) {
	for kind, o := range kinds() {
		w := newWorld(t)
		d := basic(o, "out", "dev")
		files := []file{{"out", "a", "{out} {dev}"}, {"dev", "", "dev"}}
		job := w.job(t, d, atFinal)
		w.build(t, job, files...)
		r := w.register(t, job, output.Options{})
		before := w.objects(t)

		// An object that came from elsewhere is trusted once it was built here.
		out := r.Infos["out"].Clone()
		out.Ultimate = false
		if err := w.Register(t.Context(), []*store.PathInfo{out}); err != nil {
			t.Fatal(err)
		}
		again := w.rebuild(t, d, r, store.BuildCheck)
		w.build(t, again, files...)
		if res := w.register(t, again, output.Options{}); len(res.Infos) != 0 {
			t.Errorf("%s: %+v", kind, res)
		}
		info, err := store.PathInfoOf(t.Context(), w, out.Path)
		if err != nil || !info.Ultimate {
			t.Errorf("%s: %+v, %v", kind, info, err)
		}
		if after := w.objects(t); strings.Join(after, " ") != strings.Join(before, " ") {
			t.Errorf("%s: %q became %q", kind, before, after)
		}
	}
}

func TestCheckOfAnother(t *testing.T) {
	for kind, o := range kinds() {
		for _, keep := range []bool{false, true} {
			w := newWorld(t)
			d := basic(o, "out")
			job := w.job(t, d, atFinal)
			w.build(t, job, file{"out", "a", "{out} 1"})
			r := w.register(t, job, output.Options{})
			path := filepath.Join(w.RealDir(), r.Infos["out"].Path.Base())

			again := w.rebuild(t, d, r, store.BuildCheck)
			w.build(t, again, file{"out", "a", "{out} 2"})
			want := fmt.Sprintf("derivation '%s' may not be deterministic: output \"%s\" differs", w.Dir().Print(job.DrvPath), path)
			if keep {
				want += fmt.Sprintf(" from \"%s.check\"", path)
			}
			f := w.fails(t, again, output.Options{KeepFailed: keep}, store.NotDeterministic, want)
			if f.Message != want {
				t.Errorf("%s: %q", kind, f.Message)
			}
			if !keep {
				if _, err := os.Lstat(path + ".check"); err == nil {
					t.Errorf("%s: kept", kind)
				}
				continue
			}
			got, err := os.ReadFile(path + ".check/a")
			if err != nil || !strings.HasPrefix(string(got), string(w.Dir())) || !strings.HasSuffix(string(got), " 2") || strings.Contains(string(got), again.Outputs["out"].Scratch.Base()) {
				t.Errorf("%s: %q, %v", kind, got, err)
			}
			if w.read(t, r.Infos["out"].Path, "a") == string(got) {
				t.Errorf("%s: the valid object changed", kind)
			}
		}
	}
}

// In check mode a wrong hash is a wrong hash, and nothing is added to the store.
func TestCheckOfFixedOutput(t *testing.T) {
	w := newWorld(t)
	d := basic(fixed(storepath.Flat, nixhash.Of(nixhash.SHA256, "a")), "out")
	job := w.job(t, d, atFinal)
	w.build(t, job, file{"out", "", "a"})
	r := w.register(t, job, output.Options{})
	before := w.objects(t)
	again := w.rebuild(t, d, r, store.BuildCheck)
	w.build(t, again, file{"out", "", "b"})
	w.fails(t, again, output.Options{}, store.HashMismatch, "hash mismatch in fixed-output derivation")
	if after := w.objects(t); len(after) != len(before) {
		t.Errorf("%q became %q", before, after)
	}
}

func TestRepair(t *testing.T) {
	for kind, o := range kinds() {
		for _, intact := range []bool{false, true} {
			w := newWorld(t)
			d := basic(o, "out")
			files := []file{{"out", "a", "{out}"}}
			job := w.job(t, d, atFinal)
			w.build(t, job, files...)
			r := w.register(t, job, output.Options{})
			path := filepath.Join(w.RealDir(), r.Infos["out"].Path.Base(), "a")
			good := w.read(t, r.Infos["out"].Path, "a")
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("bad"), 0o644); err != nil {
				t.Fatal(err)
			}
			again := w.rebuild(t, d, r, store.BuildRepair)
			out := again.Outputs["out"]
			out.Intact = intact
			again.Outputs["out"] = out
			w.build(t, again, files...)
			if _, err := output.Register(t.Context(), w.backing, again, output.Options{}); err != nil {
				t.Fatal(err)
			}
			if got := w.read(t, r.Infos["out"].Path, "a"); (got == good) == intact {
				t.Errorf("%s, intact %v: %q", kind, intact, got)
			}
			if !intact {
				w.isSound(t)
			}
		}
	}
}

func TestDiffHook(t *testing.T) {
	w := newWorld(t)
	d := basic(inputAddressed, "out")
	job := w.job(t, d, atFinal)
	w.build(t, job, file{"out", "a", "1"})
	r := w.register(t, job, output.Options{})
	hook := filepath.Join(testenv.Scratch(t), "hook")
	try := func(script string) string {
		t.Helper()
		if err := os.WriteFile(hook, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
		again := w.rebuild(t, d, r, store.BuildCheck)
		again.BuildDir = "/build/dir"
		w.build(t, again, file{"out", "a", "2"})
		var said testenv.Lines
		ctx := activity.With(t.Context(), &said)
		_, err := output.Register(ctx, w.backing, again, output.Options{DiffHook: hook})
		if err == nil || !strings.Contains(err.Error(), "may not be deterministic") || !strings.Contains(err.Error(), ".check\"") {
			t.Errorf("%v", err)
		}
		return strings.Join(said.All(), "\n")
	}
	p := r.Infos["out"].Path
	want := w.Dir().Print(p) + " " + filepath.Join(w.RealDir(), p.Base()) + ".check " + w.Dir().Print(job.DrvPath) + " /build/dir in / has 2"
	if got := try(`echo "$@" in $(pwd) has $(cat "$2/a")`); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := try("echo so; exit 3"); got != "so\nerror: diff hook execution failed: exit status 3" {
		t.Errorf("%q", got)
	}
	if err := os.Remove(hook); err != nil {
		t.Fatal(err)
	}
	hook += "-gone"
	again := w.rebuild(t, d, r, store.BuildCheck)
	w.build(t, again, file{"out", "a", "2"})
	w.fails(t, again, output.Options{DiffHook: hook}, store.NotDeterministic, ".check\"")
}
