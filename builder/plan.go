package builder

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
)

// QueryMissing tells what is missing, see [store.Planner]. It asks once per level
// of the graph of derivations, and changes nothing.
func (b *Builder) QueryMissing(ctx context.Context, v View, targets []derivation.DerivedPath) (*store.Missing, error) {
	p := planner{
		// A request has all that it takes to know derivations and what is there of them.
		r:    b.newRequest(v, noRoots{}),
		done: map[string]bool{}, build: storepath.Set{}, unknown: storepath.Set{}, wanted: storepath.Set{},
	}
	for level := p.fresh(ctx, targets); len(level) > 0; {
		next, err := p.level(ctx, level)
		if err != nil {
			return nil, err
		}
		level = p.fresh(ctx, next)
	}
	return p.missing(ctx)
}

// noRoots are for whoever only asks.
type noRoots struct{}

func (noRoots) Add(context.Context, []storepath.Path) error { return nil }
func (noRoots) Close() error                                { return nil }

type planner struct {
	r       *request
	done    map[string]bool
	build   storepath.Set
	unknown storepath.Set
	wanted  storepath.Set // from substituters
	wants   []substitute.Wanted
}

func (p *planner) substitute(path storepath.Path, ca storepath.ContentAddress) {
	if p.wanted.Add(path) {
		p.wants = append(p.wants, substitute.Wanted{Path: path, CA: ca})
	}
}

// missing puts together what was found, with the closures of what is to be
// substituted.
func (p *planner) missing(ctx context.Context) (*store.Missing, error) {
	m := &store.Missing{WillBuild: p.build.Sorted()}
	if p.r.Substituter == nil {
		for path := range p.wanted {
			p.unknown.Add(path)
		}
	} else if len(p.wants) > 0 {
		plan, err := p.r.Substituter.Plan(ctx, p.wants)
		if err != nil {
			return nil, err
		}
		for _, info := range plan.Infos {
			m.WillSubstitute = append(m.WillSubstitute, info.Path)
		}
		for _, path := range plan.Unknown {
			p.unknown.Add(path)
		}
		m.DownloadSize, m.NarSize = plan.DownloadSize, plan.NarSize
	}
	m.WillSubstitute = storepath.SortUnique(m.WillSubstitute)
	m.Unknown = p.unknown.Sorted()
	return m, nil
}

// fresh gives those targets that were not looked at yet.
func (p *planner) fresh(ctx context.Context, targets []derivation.DerivedPath) (list []derivation.DerivedPath) {
	for _, t := range targets {
		key := t.String()
		if p.done[key] {
			continue
		}
		p.done[key] = true
		if len(t.Through) > 0 {
			activity.Warnf(ctx, "Ignoring dynamic derivation %s while querying missing paths; not yet implemented", t.Drv().Arg(p.r.Store.Dir()))
			continue
		}
		list = append(list, t)
	}
	return list
}

// level looks at some targets, and gives the inputs of what must be built.
func (p *planner) level(ctx context.Context, targets []derivation.DerivedPath) (next []derivation.DerivedPath, err error) {
	paths := make([]storepath.Path, len(targets))
	for i, t := range targets {
		paths[i] = t.Path
	}
	valid, err := p.r.Store.ValidPaths(ctx, storepath.SortUnique(paths))
	if err != nil {
		return nil, err
	}
	have := storepath.NewSet(valid...)
	var steps []*planned
	for _, t := range targets {
		switch {
		case have.Has(t.Path) && !t.IsOpaque():
			s, err := p.look(ctx, t)
			if err != nil {
				return nil, err
			}
			steps = append(steps, s)
		case have.Has(t.Path):
		case t.IsOpaque():
			p.substitute(t.Path, storepath.ContentAddress{})
		default:
			p.unknown.Add(t.Path) // it may be there to be had, which Nix does not ask either
		}
	}
	if err := p.findOutputs(ctx, steps); err != nil {
		return nil, err
	}
	for _, s := range steps {
		if s.build && p.build.Add(s.node.path) {
			next = appendInputs(next, s.node)
		}
	}
	return next, nil
}

// planned is a derivation of which outputs are wanted.
type planned struct {
	node    *node
	outputs []*output
	build   bool
}

// look reads a derivation that is valid.
func (p *planner) look(ctx context.Context, t derivation.DerivedPath) (*planned, error) {
	n := p.r.nodes[nodeKey{t.Path, store.BuildNormal}]
	if n == nil {
		drv, err := p.r.Store.Derivation(ctx, t.Path)
		if err != nil {
			return nil, err
		}
		if n, err = p.r.node(ctx, t.Path, drv, store.BuildNormal); err != nil {
			return nil, err
		}
	}
	names := t.Outputs
	if t.WantsAll() {
		names = slices.Sorted(maps.Keys(n.drv.Outputs))
	}
	s := &planned{node: n}
	for _, name := range names {
		if _, ok := n.drv.Outputs[name]; !ok {
			return nil, fmt.Errorf("derivation '%s' does not have output '%s'", p.r.Store.Dir().Print(t.Path), name)
		}
		s.outputs = append(s.outputs, &output{node: n, name: name, path: n.known[name]})
	}
	return s, nil
}

// findOutputs decides which derivations have to be built.
func (p *planner) findOutputs(ctx context.Context, steps []*planned) error {
	var all []*output
	for _, s := range steps {
		all = append(all, s.outputs...)
	}
	if err := p.r.findPaths(ctx, all); err != nil {
		return err
	}
	if err := p.findElsewhere(ctx, steps); err != nil {
		return err
	}
	valid, err := p.r.validOutputs(ctx, all)
	if err != nil {
		return err
	}
	var absent []*output
	for _, s := range steps {
		for _, o := range s.outputs {
			switch {
			case valid.Has(o.path):
			case o.path.IsZero() || !p.r.mayBeSubstituted(s.node):
				s.build = true
			default:
				absent = append(absent, o)
			}
		}
	}
	return p.substituteOutputs(ctx, steps, absent)
}

// findElsewhere asks substituters for the paths of outputs that only builds can
// tell.
func (p *planner) findElsewhere(ctx context.Context, steps []*planned) error {
	var asked []*output
	var ids []store.DrvOutput
	for _, s := range steps {
		for _, o := range s.outputs {
			if o.path.IsZero() && s.node.kind != derivation.Impure && p.r.mayBeSubstituted(s.node) {
				asked, ids = append(asked, o), append(ids, o.id())
			}
		}
	}
	if len(ids) == 0 {
		return nil
	}
	reals, err := p.r.Substituter.Realisations(ctx, ids)
	if err != nil {
		return err
	}
	for i, real := range reals {
		if real != nil {
			asked[i].path = real.OutPath
		}
	}
	return nil
}

// substituteOutputs plans to substitute the absent outputs of derivations that
// need not be built for others.
func (p *planner) substituteOutputs(ctx context.Context, steps []*planned, absent []*output) error {
	if len(absent) == 0 {
		return nil
	}
	wanted := make([]substitute.Wanted, len(absent))
	for i, o := range absent {
		wanted[i] = substitute.Wanted{Path: o.path, CA: o.node.fixedCA()}
	}
	found, err := p.r.Substituter.Substitutables(ctx, wanted)
	if err != nil {
		return err
	}
	here := map[*output]bool{}
	for i, o := range absent {
		here[o] = found[i] != nil
	}
	for _, s := range steps {
		for _, o := range s.outputs {
			if had, asked := here[o]; asked && !had {
				s.build = true
			}
		}
		if s.build {
			continue
		}
		for _, o := range s.outputs {
			if here[o] {
				p.substitute(o.path, o.node.fixedCA())
			}
		}
	}
	return nil
}

// appendInputs appends what a derivation is built from.
func appendInputs(list []derivation.DerivedPath, n *node) []derivation.DerivedPath {
	var add func(drv derivation.DerivedPath, in derivation.InputNode)
	add = func(drv derivation.DerivedPath, in derivation.InputNode) {
		if len(in.Outputs) > 0 {
			list = append(list, drv.Of(in.Outputs...))
		}
		for name, inner := range in.Dynamic {
			add(drv.Of(name), inner)
		}
	}
	for p, in := range n.drv.InputDrvs {
		add(derivation.DerivedPath{Path: p}, in)
	}
	return list
}
