package builder

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// target is the goal of having outputs of a derivation, which may have to be got
// or even built first.
type target struct {
	goal
	path    derivation.DerivedPath
	mode    store.BuildMode
	drv     storepath.Path // once it is known
	asked   bool           // it is being got, or was
	outputs []*output
}

// node is a derivation in one mode, with the goals that it has in common for all
// of its outputs.
type node struct {
	path   storepath.Path
	mode   store.BuildMode
	drv    *derivation.Derivation
	kind   derivation.Kind
	hashes map[string]nixhash.Hash
	opts   *derivation.Options
	// known are the paths of the outputs, as far as they are in the derivation.
	known map[string]storepath.Path
	// text is the hash of a derivation that was sent along and may differ from the one
	// at its path.
	text nixhash.Hash
	// write tells that the derivation is to be written to the store before it is
	// built: it is the outcome of a resolution.
	write bool

	outputs  map[string]*output
	inputs   *inputs
	building *building
}

type nodeKey struct {
	path storepath.Path
	mode store.BuildMode
}

func (r *request) target(p derivation.DerivedPath, mode store.BuildMode) *target {
	key := fmt.Sprint(mode) + p.String()
	t := r.targets[key]
	if t != nil {
		return t
	}
	t = &target{path: p, mode: mode}
	r.targets[key] = t
	if len(p.Through) == 0 {
		t.drv = p.Path
		r.batch.load = append(r.batch.load, t)
		return t
	}
	// The derivation is an output itself.
	outer := r.target(p.Drv(), store.BuildNormal)
	r.await([]*goal{&outer.goal}, func(ctx context.Context, w *wait) error {
		if w.failed > 0 {
			r.noDerivation(ctx, t)
			return nil
		}
		t.drv = outer.result.Outputs[p.Through[len(p.Through)-1]].OutPath
		r.batch.load = append(r.batch.load, t)
		return nil
	})
	return t
}

func (r *request) noDerivation(ctx context.Context, t *target) {
	r.fail(ctx, &t.goal, store.DependencyFailed, fmt.Sprintf("failed to obtain derivation of '%s'", t.path.Drv().Arg(r.Store.Dir())))
}

// load reads the derivations of targets, and goes on with their outputs.
func (r *request) load(ctx context.Context, targets []*target) error {
	var fresh []storepath.Path
	for _, t := range targets {
		if r.nodes[nodeKey{t.drv, t.mode}] == nil {
			fresh = append(fresh, t.drv)
		}
	}
	fresh = storepath.SortUnique(fresh)
	if err := r.roots.Add(ctx, fresh); err != nil {
		return err
	}
	valid, err := r.Store.ValidPaths(ctx, fresh)
	if err != nil {
		return err
	}
	have := storepath.NewSet(valid...)
	for _, t := range targets {
		n := r.nodes[nodeKey{t.drv, t.mode}]
		switch {
		case n == nil && !have.Has(t.drv):
			if err := r.obtain(ctx, t); err != nil {
				return err
			}
			continue
		case n == nil:
			drv, err := r.Store.Derivation(ctx, t.drv)
			if err != nil {
				return err
			}
			if n, err = r.node(ctx, t.drv, drv, t.mode); err != nil {
				return err
			}
		}
		if err := r.wantOutputs(t, n); err != nil {
			return err
		}
	}
	return nil
}

// obtain gets the derivation of a target that is not there.
func (r *request) obtain(ctx context.Context, t *target) error {
	if t.asked {
		return &store.InvalidPathError{Path: r.Store.Dir().Print(t.drv)}
	}
	t.asked = true
	g := r.path(t.drv, storepath.ContentAddress{}, false)
	r.await([]*goal{&g.goal}, func(ctx context.Context, w *wait) error {
		if w.failed > 0 {
			r.noDerivation(ctx, t)
			return nil
		}
		r.batch.load = append(r.batch.load, t)
		return nil
	})
	return ctx.Err()
}

// node begins with a derivation.
func (r *request) node(ctx context.Context, p storepath.Path, drv *derivation.Derivation, mode store.BuildMode) (*node, error) {
	dir := r.Store.Dir()
	n := &node{path: p, mode: mode, drv: drv, outputs: map[string]*output{}}
	if err := r.require(drv.Features()...); err != nil {
		return nil, fmt.Errorf("derivation '%s': %w", dir.Print(p), err)
	}
	var err error
	if n.kind, err = drv.Kind(); err != nil {
		return nil, err
	}
	if n.known, err = drv.OutputPaths(dir); err != nil {
		return nil, err
	}
	m, err := r.Store.Hasher().Modulo(ctx, drv)
	if err != nil {
		return nil, err
	}
	n.hashes = m.Hashes
	if n.opts, err = drv.Options(dir); err != nil {
		return nil, fmt.Errorf("while parsing derivation '%s': %w", dir.Print(p), err)
	}
	if !n.kind.HasKnownPath() {
		if err := r.require(featureCA); err != nil {
			return nil, err
		}
	}
	r.nodes[nodeKey{p, mode}] = n
	return n, nil
}

// wantOutputs begins with the outputs of a target.
func (r *request) wantOutputs(t *target, n *node) error {
	names := t.path.Outputs
	if t.path.WantsAll() {
		names = slices.Sorted(maps.Keys(n.drv.Outputs))
	}
	goals := make([]*goal, len(names))
	for i, name := range names {
		if _, ok := n.drv.Outputs[name]; !ok {
			return fmt.Errorf("derivation '%s' does not have output '%s'", r.Store.Dir().Print(n.path), name)
		}
		o := r.output(n, name)
		o.quiet = true // we tell
		t.outputs = append(t.outputs, o)
		goals[i] = &o.goal
	}
	r.await(goals, func(ctx context.Context, w *wait) error {
		r.finish(ctx, t, w)
		return nil
	})
	return nil
}

// finish puts the results of the outputs together.
func (r *request) finish(ctx context.Context, t *target, w *wait) {
	if w.failed > 0 {
		for _, o := range t.outputs {
			if o.state != open && o.state != succeeded {
				r.failAs(ctx, &t.goal, o.result)
				return
			}
		}
	}
	sum := *t.outputs[0].result
	sum.Outputs = make(map[string]*store.Realisation, len(t.outputs))
	for _, o := range t.outputs {
		maps.Copy(sum.Outputs, o.result.Outputs)
		if effort(o.result.Status) > effort(sum.Status) {
			all := sum.Outputs
			sum = *o.result
			sum.Outputs = all
		}
	}
	r.succeed(ctx, &t.goal, &sum)
}

// effort orders successes by how much had to be done.
func effort(s store.BuildStatus) int {
	return slices.Index([]store.BuildStatus{store.ResolvesToAlreadyValid, store.AlreadyValid, store.Substituted, store.Built}, s)
}
