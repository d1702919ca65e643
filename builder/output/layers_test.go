package output_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/strata-nix/strata/builder/output"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// layers is a store over another one, and where the layers' objects are.
type layers struct {
	*world
	upper, lower string
}

// newLayers mounts a layered store; below puts things into the lower one first.
func newLayers(t *testing.T, below func(w *world)) *layers {
	t.Helper()
	dir := testenv.Scratch(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	under, err := local.Open(t.Context(), local.Options{Root: at("lower"), CADerivations: true})
	if err != nil {
		t.Fatal(err)
	}
	w := worldOf(t, under)
	below(w)
	if err := os.Remove(w.chroot); err != nil {
		t.Fatal(err)
	}
	if err := under.Close(); err != nil {
		t.Fatal(err)
	}
	l := &layers{upper: at("upper"), lower: at("lower/nix/store")}
	for _, d := range []string{l.upper, at("work"), at("merged/nix/store")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m, err := overlayfs.Mount(t.Context(), overlayfs.Options{Lowers: []string{l.lower}, Upper: l.upper, Work: at("work"), Target: at("merged/nix/store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmount(context.WithoutCancel(t.Context()), overlayfs.UnmountOptions{}); err != nil {
			t.Errorf("something holds on to the merged directory: %v", err)
		}
	})
	lower, err := local.Open(t.Context(), local.Options{Root: at("lower"), ReadOnly: true, CADerivations: true})
	if err != nil {
		t.Fatal(err)
	}
	s, err := overlay.Open(t.Context(), overlay.Options{
		Upper: local.Options{Root: at("merged"), State: at("state"), CADerivations: true}, UpperLayer: l.upper,
	}, []store.Store{lower})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l.world = worldOf(t, s)
	return l
}

// has lists the objects in a layer's directory.
func has(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if p, err := storepath.ParseBase(e.Name()); err == nil {
			names = append(names, p.Name())
		}
	}
	slices.Sort(names)
	return names
}

func TestOutputsLandInTheUpperLayer(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.Overlay(t)
	var dep *store.PathInfo
	l := newLayers(t, func(w *world) { dep = w.add(t, storetest.Tree(t, w.Dir(), "dep", map[string]string{"a": "a"})) })
	job := l.job(t, basic(inputAddressed, "out"), elsewhere, dep)
	l.build(t, job, file{"out", "bin/x", "{out} {dep}"})
	l.register(t, job, output.Options{})
	job = l.job(t, basic(floating(storepath.Recursive), "out"), elsewhere, dep)
	l.build(t, job, file{"out", "bin/x", "{out} {dep}"})
	l.register(t, job, output.Options{Realisations: true})
	if up, low := has(t, l.upper), has(t, l.lower); !slices.Equal(up, []string{"x", "x"}) || !slices.Equal(low, []string{"dep"}) {
		t.Errorf("upper %q, lower %q", up, low)
	}
}

// What a lower has is neither copied nor changed, but known in the upper as built.
func TestFloatingOutputThatTheLowerHas(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.Overlay(t)
	files := []file{{"out", "a", "{out}"}}
	var below *output.Result
	l := newLayers(t, func(w *world) {
		d := basic(floating(storepath.Recursive), "out")
		d.Env["other"] = "derivation"
		job := w.job(t, d, elsewhere)
		w.build(t, job, files...)
		below = w.register(t, job, output.Options{Realisations: true})
	})
	job := l.job(t, basic(floating(storepath.Recursive), "out"), elsewhere)
	l.build(t, job, files...)
	r := l.register(t, job, output.Options{Realisations: true})
	known, err := l.Realisations(t.Context(), []store.DrvOutput{r.Realisations["out"].ID, below.Realisations["out"].ID})
	if err != nil || known[0] == nil || known[1] == nil || known[0].OutPath != below.Infos["out"].Path || known[1].OutPath != known[0].OutPath {
		t.Errorf("%+v, %v", known, err)
	}
	if up := has(t, l.upper); len(up) > 0 {
		t.Errorf("the upper layer has %q", up)
	}
}

// A repair puts the good object above the bad one of the lower, which nobody may
// touch. Here OverlayFS can neither move the old directory nor exchange it.
func TestRepairOverTheLower(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.Overlay(t)
	d := basic(inputAddressed, "out")
	files := []file{{"out", "a", "{out}"}}
	var path storepath.Path
	l := newLayers(t, func(w *world) {
		job := w.job(t, d, atFinal)
		w.build(t, job, files...)
		path = w.register(t, job, output.Options{}).Infos["out"].Path
		bad := filepath.Join(w.RealDir(), path.Base(), "a")
		if err := os.Chmod(bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(bad, []byte("bad"), 0o644); err != nil {
			t.Fatal(err)
		}
	})
	job := l.job(t, d, elsewhere)
	job.Mode = store.BuildRepair
	out := job.Outputs["out"]
	out.Valid = true
	job.Outputs["out"] = out
	l.build(t, job, files...)
	l.register(t, job, output.Options{})
	if got := l.read(t, path, "a"); got != l.Dir().Print(path) {
		t.Errorf("%q", got)
	}
	if b, err := os.ReadFile(filepath.Join(l.lower, path.Base(), "a")); err != nil || string(b) != "bad" {
		t.Errorf("the lower's object became %q, %v", b, err)
	}
}
