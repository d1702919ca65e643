package builder

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// inputs is the goal of having what a derivation is built from, and of what it
// resolves to then. It is one for all outputs of the derivation.
type inputs struct {
	goal
	node    *node
	targets map[string]*target // by input, in the words of derivation.DerivedPath
	// resolved is the derivation that is built instead, nil if it is itself.
	resolved *node
}

// realiseInputs goes on with an output that has to be built.
func (r *request) realiseInputs(o *output) {
	n := o.node
	if n.inputs == nil {
		n.inputs = &inputs{node: n, targets: map[string]*target{}}
		n.inputs.quiet = true // the output tells
		r.steps = append(r.steps, func(ctx context.Context) error { return r.gather(ctx, n.inputs) })
	}
	in := n.inputs
	r.await([]*goal{&in.goal}, func(ctx context.Context, w *wait) error {
		switch {
		case w.failed > 0:
			r.failOutput(ctx, o, in.result)
		case in.resolved != nil:
			r.buildResolved(o, in.resolved)
		default:
			r.buildItself(o)
		}
		return nil
	})
}

// gather begins with the inputs.
func (r *request) gather(ctx context.Context, in *inputs) error {
	if err := r.checkPurity(ctx, in.node); err != nil {
		return err
	}
	var goals []*goal
	for _, p := range slices.SortedFunc(maps.Keys(in.node.drv.InputDrvs), byName) {
		goals = r.addInputs(in, goals, derivation.DerivedPath{Path: p}, in.node.drv.InputDrvs[p])
	}
	r.await(goals, func(ctx context.Context, w *wait) error {
		if w.failed > 0 {
			r.fail(ctx, &in.goal, store.DependencyFailed, r.cannotBuild(in.node, w.failed))
			return nil
		}
		return r.resolve(ctx, in)
	})
	return nil
}

// addInputs appends the goals for one input derivation, which may be an output of
// another.
func (r *request) addInputs(in *inputs, goals []*goal, drv derivation.DerivedPath, want derivation.InputNode) []*goal {
	if len(want.Outputs) > 0 {
		t := r.target(drv.Of(want.Outputs...), modeOfInputs(in.node.mode))
		in.targets[drv.String()] = t
		goals = append(goals, &t.goal)
	}
	for _, name := range slices.Sorted(maps.Keys(want.Dynamic)) {
		goals = r.addInputs(in, goals, drv.Of(name), want.Dynamic[name])
	}
	return goals
}

// byName orders derivations by their names, so that people find what they read in
// an order.
func byName(a, b storepath.Path) int {
	return cmp.Or(strings.Compare(a.Name(), b.Name()), strings.Compare(a.Base(), b.Base()))
}

// modeOfInputs is how what a build needs is built itself.
func modeOfInputs(m store.BuildMode) store.BuildMode {
	if m == store.BuildRepair {
		return store.BuildRepair
	}
	return store.BuildNormal
}

// checkPurity keeps what promises to be the same each time from depending on what
// does not.
func (r *request) checkPurity(ctx context.Context, n *node) error {
	if !r.has(featureImpure) || n.kind == derivation.Impure || n.kind == derivation.Fixed {
		return nil
	}
	for p := range n.drv.InputDrvs {
		kind := derivation.Kind(0)
		if known := r.nodes[nodeKey{p, modeOfInputs(n.mode)}]; known != nil {
			kind = known.kind
		} else {
			drv, err := r.Store.Derivation(ctx, p)
			if err != nil {
				return err
			}
			if kind, err = drv.Kind(); err != nil {
				return err
			}
		}
		if kind == derivation.Impure {
			return fmt.Errorf("pure derivation '%s' depends on impure derivation '%s'", r.Store.Dir().Print(n.path), r.Store.Dir().Print(p))
		}
	}
	return nil
}

// cannotBuild is what is said of a derivation of which dependencies failed.
func (r *request) cannotBuild(n *node, failed int) string {
	dependencies := "dependencies"
	if failed == 1 {
		dependencies = "dependency"
	}
	return fmt.Sprintf("Cannot build '%s'.\nReason: %d %s failed.%s", r.Store.Dir().Print(n.path), failed, dependencies, r.outputPaths(n))
}

// outputPaths lists the paths of outputs that were known beforehand.
func (r *request) outputPaths(n *node) string {
	var paths []storepath.Path
	for _, p := range n.known {
		if !p.IsZero() {
			paths = append(paths, p)
		}
	}
	if len(paths) == 0 {
		return ""
	}
	return "\nOutput paths:\n  " + strings.Join(r.Store.Dir().PrintAll(storepath.SortUnique(paths)), "\n  ")
}

// inputPath is an output of an input derivation, once that has been realised.
func (in *inputs) inputPath(drv derivation.DerivedPath, output string) (storepath.Path, bool) {
	t := in.targets[drv.String()]
	if t == nil || t.state != succeeded || t.result.Outputs[output] == nil {
		return storepath.Path{}, false
	}
	return t.result.Outputs[output].OutPath, true
}

// resolve ends the goal: with another derivation if the paths of inputs, known
// only now, go into this one.
func (r *request) resolve(ctx context.Context, in *inputs) error {
	n := in.node
	if !r.mustResolve(n) {
		r.succeed(ctx, &in.goal, &store.BuildResult{})
		return nil
	}
	if err := r.require(featureCA); err != nil {
		return err
	}
	basic, err := resolve(ctx, r.Store.Dir(), n.drv, in.inputPath)
	if err != nil {
		return fmt.Errorf("resolving derivation '%s': %w", r.Store.Dir().Print(n.path), err)
	}
	drv := &derivation.Derivation{Basic: *basic}
	p, err := drv.StorePath(r.Store.Dir())
	if err != nil {
		return err
	}
	if in.resolved = r.nodes[nodeKey{p, n.mode}]; in.resolved == nil {
		if err := r.roots.Add(ctx, []storepath.Path{p}); err != nil {
			return err
		}
		if in.resolved, err = r.node(ctx, p, drv, n.mode); err != nil {
			return err
		}
		in.resolved.write = true
	}
	from, to := r.Store.Dir().Print(n.path), r.Store.Dir().Print(p)
	_, act := activity.Start(ctx, activity.Info, activity.BuildWaiting,
		fmt.Sprintf("resolved derivation: '%s' -> '%s'", from, to), activity.Text(from), activity.Text(to))
	r.acts = append(r.acts, act)
	r.succeed(ctx, &in.goal, &store.BuildResult{})
	return nil
}

// mustResolve tells whether paths that only builds can tell go into a derivation.
func (r *request) mustResolve(n *node) bool {
	switch {
	case len(n.drv.InputDrvs) == 0:
		return false
	case n.drv.HasDynamicInputs():
		return true
	case n.kind == derivation.Fixed:
		// It need not be, but what it resolves to may have been built already.
		return r.has(featureCA)
	}
	return n.kind != derivation.InputAddressed
}

// buildResolved has an output by having the one of the resolved derivation.
func (r *request) buildResolved(o *output, resolved *node) {
	other := r.output(resolved, o.name)
	r.await([]*goal{&other.goal}, func(ctx context.Context, w *wait) error {
		if w.failed > 0 {
			r.failOutput(ctx, o, &store.BuildResult{Status: store.DependencyFailed, Message: fmt.Sprintf(
				"build of resolved derivation '%s' failed", r.Store.Dir().Print(resolved.path))})
			return nil
		}
		result := *other.result
		real := &store.Realisation{ID: o.id(), OutPath: other.path}
		if result.Status == store.AlreadyValid {
			result.Status = store.ResolvesToAlreadyValid
		}
		result.Outputs = map[string]*store.Realisation{o.name: real}
		if o.node.kind != derivation.Impure {
			if err := trust.SignRealisation(real, r.Execute.SecretKeys...); err != nil {
				return err
			}
			r.registerLater(real)
		}
		o.path = other.path
		r.progress.builds.expected--
		r.succeed(ctx, &o.goal, &result)
		return nil
	})
}
