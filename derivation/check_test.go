package derivation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/strata-nix/strata/storepath"
)

func TestCheckFaults(t *testing.T) {
	drvs := parsed(t)
	h := hasher(drvs)
	for name, c := range map[string]struct {
		drv    string
		change func(d *Derivation)
		why    string
	}{
		"path of another": {"app", func(d *Derivation) {
			d.Outputs["out"] = Output{Kind: InputAddressed, Path: d.mustPath(t, "app")}
		}, "-app.drv' has incorrect output '/nix/store/00000000000000000000000000000000-app', should be '/nix/store/fhcf5yff3c1kdpyf3ig2dngcy618hmvk-app'"},
		"changed without its paths": {"app", func(d *Derivation) { d.Args = nil }, "has incorrect output '/nix/store/fhcf5yff3c1kdpyf3ig2dngcy618hmvk-app', should be"},
		"should be deferred": {"deferred", func(d *Derivation) {
			d.Outputs["out"] = Output{Kind: InputAddressed, Path: d.mustPath(t, "deferred")}
		}, "has incorrect output '/nix/store/00000000000000000000000000000000-deferred', should be deferred"},
		"fixed, wrong variable": {"tree", func(d *Derivation) { d.Env["out"] = "/x" }, "has incorrect environment variable 'out', should be '/nix/store/ywpgznd7l149hiqc1x4lmh8gwm3h4j6l-tree' but is actually '/x'"},
		"fixed, no variable":    {"tree", func(d *Derivation) { delete(d.Env, "out") }, "has missing environment variable 'out'"},
		"deferred for no reason": {"app", func(d *Derivation) {
			d.Outputs["out"], d.Env["out"] = Output{Kind: Deferred}, ""
		}, "has incorrect environment variable 'out'"},
		"name":  {"app", func(d *Derivation) { d.Name = "other" }, "does not match its path"},
		"mixed": {"app", func(d *Derivation) { d.Outputs["dev"] = Output{Kind: Deferred} }, "can't mix"},
		"unknown output of an input": {"app", func(d *Derivation) {
			for p := range d.InputDrvs {
				d.InputDrvs[p] = InputNode{Outputs: []string{"man"}}
			}
		}, "wants the output 'man'"},
	} {
		t.Run(name, func(t *testing.T) {
			p, orig := named(t, c.drv)
			d := *orig
			d.Outputs, d.Env, d.InputDrvs = maps.Clone(d.Outputs), maps.Clone(d.Env), maps.Clone(d.InputDrvs)
			c.change(&d)
			if _, err := h.Check(ctx, p, &d); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%v\nwant %q", err, c.why)
			}
		})
	}
}

func TestCheckWarnings(t *testing.T) {
	h := hasher(parsed(t))
	p, d := named(t, "app")
	d.Outputs["out"] = Output{Kind: Deferred}
	if w, err := h.Check(ctx, p, d); err != nil || len(w) != 1 || !strings.Contains(w[0], "incorrect deferred output, should be '/nix/store/fhcf5yff3c1kdpyf3ig2dngcy618hmvk-app'") {
		t.Errorf("deferred for no reason: %q, %v", w, err)
	}
	p, d = named(t, "app")
	d.Env["out"] = "/x"
	if w, err := h.Check(ctx, p, d); err != nil || len(w) != 1 || !strings.Contains(w[0], "incorrect environment variable 'out'") {
		t.Errorf("input-addressed, wrong variable: %q, %v", w, err)
	}
}

func TestModuloMissingInput(t *testing.T) {
	_, d := named(t, "app")
	h := hasher(nil)
	if _, err := h.Modulo(ctx, d); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "-lib-1.2.drv") {
		t.Errorf("%v, want the input that is missing", err)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := hasher(parsed(t)).Modulo(canceled, d); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// A damaged store may hold derivations that depend on each other.
func TestModuloCycle(t *testing.T) {
	var d Derivation
	a, b := d.mustPath(t, "a.drv"), d.mustPath(t, "b.drv")
	make := func(name string, in storepath.Path) *Derivation {
		return &Derivation{Basic: Basic{Name: name, Outputs: map[string]Output{"out": {Kind: Deferred}}},
			InputDrvs: map[storepath.Path]InputNode{in: {Outputs: []string{"out"}}}}
	}
	drvs := map[storepath.Path]*Derivation{a: make("a", b), b: make("b", a)}
	if _, err := hasher(drvs).Modulo(ctx, drvs[a]); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "depends on itself") {
		t.Errorf("%v", err)
	}
}

// A chain as long as anybody likes costs no stack, and each link is read once.
func TestModuloLongChain(t *testing.T) {
	const links = 20_000
	drvs := map[storepath.Path]*Derivation{}
	var last storepath.Path
	for i := range links {
		d := &Derivation{Basic: Basic{Name: fmt.Sprint("link", i), Outputs: map[string]Output{"out": {Kind: Deferred}}}}
		if i > 0 {
			d.InputDrvs = map[storepath.Path]InputNode{last: {Outputs: []string{"out"}}}
		}
		last = d.mustPath(t, d.Name+".drv")
		drvs[last] = d
	}
	reads := 0
	h := NewHasher(storepath.DefaultDir, func(_ context.Context, p storepath.Path) (*Derivation, error) {
		reads++
		return drvs[p], nil
	})
	for range 2 {
		if m, err := h.Modulo(ctx, drvs[last]); err != nil || m.Deferred {
			t.Fatal(m, err)
		}
	}
	if reads != links-1 {
		t.Errorf("%d reads for %d derivations", reads, links-1)
	}
}
