package execute_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/storepath"
)

// layered makes a store over another one that has an object, which is returned. dir
// has "upper", "lower" and "merged".
func layered(t *testing.T) (w *world, below *store.PathInfo, dir string) {
	t.Helper()
	w = boxed(t)
	dir = testenv.Scratch(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	under, err := local.Open(t.Context(), local.Options{Root: at("lower")})
	if err != nil {
		t.Fatal(err)
	}
	below, err = under.AddDump(t.Context(), store.Dump{
		Name: "below", Spec: storepath.Spec{Method: storepath.Flat, Algorithm: nixhash.SHA256}, Contents: strings.NewReader("from below\n"),
	}, store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := under.Close(); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"upper", "work", "merged/nix/store"} {
		if err := os.MkdirAll(at(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m, err := overlayfs.Mount(t.Context(), overlayfs.Options{
		Lowers: []string{at("lower/nix/store")}, Upper: at("upper"), Work: at("work"), Target: at("merged/nix/store"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmount(context.WithoutCancel(t.Context()), overlayfs.UnmountOptions{}); err != nil {
			t.Errorf("something holds on to the merged directory: %v", err)
		}
	})
	lower, err := local.Open(t.Context(), local.Options{Root: at("lower"), ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	s, err := overlay.Open(t.Context(), overlay.Options{
		Upper: local.Options{Root: at("merged"), State: at("state")}, UpperLayer: at("upper"),
	}, []store.Store{lower})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &world{backing: s, opts: w.opts, heard: w.heard}, below, dir
}

// objects lists the store objects in a directory.
func objects(t *testing.T, dir string) (found []string) {
	t.Helper()
	for _, name := range names(t, dir) {
		if p, err := storepath.ParseBase(name); err == nil {
			found = append(found, p.Name())
		}
	}
	return found
}

func TestBuildsOnLayers(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.Overlay(t)
	w, below, dir := layered(t)
	use := script(`mkdir $out; ln -s $in $out/in; while read line; do echo "$line"; done < $in > $out/text; echo temporary > /tmp/x`)
	use.InputSrcs, use.Env["in"] = []storepath.Path{below.Path}, w.Dir().Print(below.Path)
	r := w.build(t, use)
	text, err := os.ReadFile(filepath.Join(w.RealDir(), r.Outputs["out"].OutPath.Base(), "text"))
	if err != nil || string(text) != "from below\n" {
		t.Errorf("%q, %v", text, err)
	}
	w.fails(t, script("mkdir $out; echo half > $out/half; exit 1"), store.PermanentFailure)
	change := script("echo x >> $in; echo x > $out")
	change.InputSrcs, change.Env["in"] = use.InputSrcs, use.Env["in"]
	w.fails(t, change, store.PermanentFailure)
	if up, low := objects(t, filepath.Join(dir, "upper")), objects(t, filepath.Join(dir, "lower/nix/store")); !slices.Equal(up, []string{"x"}) || !slices.Equal(low, []string{"below"}) {
		t.Errorf("upper %q, lower %q", up, low)
	}
	if whiteouts := names(t, filepath.Join(dir, "upper")); slices.ContainsFunc(whiteouts, func(n string) bool { return strings.HasSuffix(n, ".chroot") }) {
		t.Errorf("the upper layer has %q", whiteouts)
	}
}
