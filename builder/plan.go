package builder

import (
	"context"
	"fmt"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// QueryMissing tells what is missing, see [store.Planner]. It asks once per level
// of the graph of derivations.
func QueryMissing(ctx context.Context, s Store, targets []derivation.DerivedPath) (*store.Missing, error) {
	p := planner{s: s, done: map[string]bool{}, build: storepath.Set{}, unknown: storepath.Set{}}
	for level := p.fresh(ctx, nil, targets); len(level) > 0; {
		next, err := p.level(ctx, level)
		if err != nil {
			return nil, err
		}
		level = p.fresh(ctx, nil, next)
	}
	return &store.Missing{WillBuild: p.build.Sorted(), Unknown: p.unknown.Sorted()}, nil
}

type planner struct {
	s              Store
	done           map[string]bool
	build, unknown storepath.Set
}

// fresh appends those targets that were not looked at yet.
func (p *planner) fresh(ctx context.Context, list, targets []derivation.DerivedPath) []derivation.DerivedPath {
	for _, t := range targets {
		if len(t.Through) > 0 {
			activity.Warnf(ctx, "what %s needs is not known before the derivation that it names is built, and is not counted", t)
			continue
		}
		if key := t.String(); !p.done[key] {
			p.done[key] = true
			list = append(list, t)
		}
	}
	return list
}

// level looks at some targets, and gives the inputs of what must be built.
func (p *planner) level(ctx context.Context, targets []derivation.DerivedPath) (next []derivation.DerivedPath, err error) {
	valid, err := p.validPaths(ctx, targets)
	if err != nil {
		return nil, err
	}
	for _, t := range targets {
		if !valid.Has(t.Path) {
			p.unknown.Add(t.Path)
			continue
		}
		if t.IsOpaque() {
			continue
		}
		have, err := outputsValid(ctx, p.s, t)
		if err != nil {
			return nil, err
		}
		if have != nil || !p.build.Add(t.Path) {
			continue
		}
		drv, err := p.s.Derivation(ctx, t.Path)
		if err != nil {
			return nil, err
		}
		for in, node := range drv.InputDrvs {
			next = append(next, derivation.DerivedPath{Path: in, Outputs: node.Outputs})
		}
	}
	return next, nil
}

func (p *planner) validPaths(ctx context.Context, targets []derivation.DerivedPath) (storepath.Set, error) {
	paths := make([]storepath.Path, len(targets))
	for i, t := range targets {
		paths[i] = t.Path
	}
	valid, err := p.s.ValidPaths(ctx, storepath.SortUnique(paths))
	return storepath.NewSet(valid...), err
}

// outputsValid gives the paths of the outputs that a target wants, by name, if
// all of them are known and valid; else nil.
func outputsValid(ctx context.Context, s Store, t derivation.DerivedPath) (map[string]storepath.Path, error) {
	outputs, err := s.DerivationOutputs(ctx, t.Path)
	if err != nil {
		return nil, err
	}
	wanted := map[string]storepath.Path{}
	for _, name := range t.Outputs {
		if name == derivation.AllOutputs {
			wanted = outputs
			break
		}
		p, ok := outputs[name]
		if !ok {
			return nil, fmt.Errorf("derivation '%s' does not have wanted outputs '%s'", s.Dir().Print(t.Path), name)
		}
		wanted[name] = p
	}
	paths := make([]storepath.Path, 0, len(wanted))
	for _, p := range wanted {
		if p.IsZero() {
			return nil, nil
		}
		paths = append(paths, p)
	}
	paths = storepath.SortUnique(paths)
	valid, err := s.ValidPaths(ctx, paths)
	if err != nil || len(valid) < len(paths) || len(wanted) == 0 {
		return nil, err
	}
	return wanted, nil
}
