package builder

import (
	"context"
	"fmt"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// output is the goal of having one output of a derivation.
type output struct {
	goal
	node *node
	name string
	// path is where it is or will be, zero as long as that is not known.
	path storepath.Path
	real *store.Realisation // what the store knows of it, or nil
}

func (r *request) output(n *node, name string) *output {
	o := n.outputs[name]
	if o == nil {
		o = &output{node: n, name: name, path: n.known[name]}
		n.outputs[name] = o
		r.batch.check = append(r.batch.check, o)
		r.progress.builds.expected++
	}
	return o
}

func (o *output) id() store.DrvOutput {
	return store.DrvOutput{DrvHash: o.node.hashes[o.name], Output: o.name}
}

// realisation is what results say of an output.
func (o *output) realisation() *store.Realisation {
	if o.real != nil && o.real.OutPath == o.path {
		return o.real
	}
	return &store.Realisation{ID: o.id(), OutPath: o.path}
}

func (r *request) haveOutput(ctx context.Context, o *output, status store.BuildStatus) {
	r.progress.builds.expected--
	r.succeed(ctx, &o.goal, &store.BuildResult{
		Status: status, Outputs: map[string]*store.Realisation{o.name: o.realisation()},
	})
}

func (r *request) failOutput(ctx context.Context, o *output, result *store.BuildResult) {
	r.progress.builds.expected--
	r.failAs(ctx, &o.goal, result)
}

// check looks which outputs are there.
func (r *request) check(ctx context.Context, os []*output) error {
	if err := r.findPaths(ctx, os); err != nil {
		return err
	}
	valid, err := r.validOutputs(ctx, os)
	if err != nil {
		return err
	}
	var damaged []*output // perhaps
	for _, o := range os {
		switch {
		case !valid.Has(o.path):
			r.tryToSubstitute(o)
		case o.node.mode == store.BuildNormal:
			r.noteKnown(o)
			r.haveOutput(ctx, o, store.AlreadyValid)
		case o.node.mode == store.BuildRepair:
			damaged = append(damaged, o)
		default:
			r.noteKnown(o)
			r.realiseInputs(o)
		}
	}
	if len(damaged) > 0 {
		r.spawn(ctx, func(ctx context.Context) step { return r.examine(ctx, damaged) })
	}
	return nil
}

// findPaths asks for the paths of outputs that only builds can tell, and makes
// temporary roots of all of them.
func (r *request) findPaths(ctx context.Context, os []*output) error {
	if r.has(featureCA) {
		var asked []*output
		var ids []store.DrvOutput
		for _, o := range os {
			if o.node.kind != derivation.Impure {
				asked, ids = append(asked, o), append(ids, o.id())
			}
		}
		reals, err := r.Store.Realisations(ctx, ids)
		if err != nil {
			return err
		}
		for i, real := range reals {
			if real != nil {
				asked[i].real, asked[i].path = real, real.OutPath
			}
		}
	}
	paths := make([]storepath.Path, 0, len(os))
	for _, o := range os {
		if !o.path.IsZero() {
			paths = append(paths, o.path)
		}
	}
	return r.roots.Add(ctx, paths)
}

// validOutputs are the paths of those outputs that are valid.
func (r *request) validOutputs(ctx context.Context, os []*output) (storepath.Set, error) {
	paths := make([]storepath.Path, 0, len(os))
	for _, o := range os {
		if !o.path.IsZero() {
			paths = append(paths, o.path)
		}
	}
	valid, err := r.Store.ValidPaths(ctx, storepath.SortUnique(paths))
	return storepath.NewSet(valid...), err
}

// noteKnown registers the realisation of an output whose path was known without:
// it was made when the feature was off.
func (r *request) noteKnown(o *output) {
	if r.has(featureCA) && o.real == nil {
		r.registerLater(o.realisation())
	}
}

// examine compares outputs with their hashes.
func (r *request) examine(ctx context.Context, os []*output) step {
	intact := make([]bool, len(os))
	for i, o := range os {
		var err error
		if intact[i], err = r.intact(ctx, o.path); err != nil {
			return func(context.Context) error { return err }
		}
	}
	return func(ctx context.Context) error {
		for i, o := range os {
			if !intact[i] {
				r.tryToSubstitute(o)
				continue
			}
			r.noteKnown(o)
			r.repairClosure(ctx, o)
		}
		return nil
	}
}

// tryToSubstitute is the first way to an output.
func (r *request) tryToSubstitute(o *output) {
	n := o.node
	switch {
	case n.kind == derivation.Impure:
		r.realiseInputs(o)
		return
	case !r.mayBeSubstituted(n):
		r.notSubstituted(o)
		return
	case o.path.IsZero():
		r.batch.realise = append(r.batch.realise, o)
		return
	}
	p := r.path(o.path, n.fixedCA(), n.mode == store.BuildRepair)
	r.await([]*goal{&p.goal}, func(ctx context.Context, w *wait) error {
		switch {
		case w.failed == 0:
			return r.substituted(ctx, o)
		case w.failed > w.unobtainable && !r.Fallback:
			r.substitutesFailed(ctx, o)
		default:
			r.notSubstituted(o)
		}
		return nil
	})
}

func (r *request) mayBeSubstituted(n *node) bool {
	return r.Substituter != nil && (n.opts.AllowSubstitutes || r.AlwaysAllowSubstitutes)
}

// fixedCA is the content address of the only output, zero if that is not known
// before the build.
func (n *node) fixedCA() storepath.ContentAddress {
	if n.kind != derivation.Fixed {
		return storepath.ContentAddress{}
	}
	return n.drv.Outputs["out"].CA
}

func (r *request) substitutesFailed(ctx context.Context, o *output) {
	r.failOutput(ctx, o, &store.BuildResult{Status: store.TransientFailure, Message: fmt.Sprintf(
		"some substitutes for the outputs of derivation '%s' failed (usually happens due to networking issues); try '--fallback' to build derivation from source ",
		r.Store.Dir().Print(o.node.path))})
}

// substituted goes on with an output that is valid now.
func (r *request) substituted(ctx context.Context, o *output) error {
	switch o.node.mode {
	case store.BuildNormal:
		r.noteKnown(o)
		r.haveOutput(ctx, o, store.Substituted)
	case store.BuildRepair:
		r.noteKnown(o)
		r.repairClosure(ctx, o)
	default:
		r.realiseInputs(o)
	}
	return nil
}

// notSubstituted is the second way to an output that is not there: the inputs,
// and then a build.
func (r *request) notSubstituted(o *output) {
	if o.node.mode != store.BuildCheck {
		r.realiseInputs(o)
		return
	}
	r.steps = append(r.steps, func(context.Context) error {
		//lint:ignore ST1005 these are Nix's words
		return fmt.Errorf("some outputs of '%s' are not valid, so checking is not possible\n"+
			"Hint: --rebuild and --check error if the derivation was not previously built and cannot be substituted.\n"+
			"      Remove it to perform a fresh build, or use --repair to rewrite missing or corrupted builds in the store.",
			r.Store.Dir().Print(o.node.path))
	})
}
