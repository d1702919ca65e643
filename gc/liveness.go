package gc

import (
	"context"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/storepath"
)

// Liveness says what a live path keeps alive beside what it refers to. It is the one place that
// knows: a collection, a pivot and who asks why something is alive go by it alike.
//
// Source: LocalStore::collectGarbage in src/libstore/gc.cc of Nix 2.34, computeFSClosure in
// misc.cc, and Store::queryPartialDerivationOutputMap in store-api.cc.
type Liveness struct {
	// KeepOutputs has a live derivation keep its outputs (Nix's setting keep-outputs).
	KeepOutputs bool
	// KeepDerivations has a live path keep its deriver (keep-derivations).
	KeepDerivations bool
	// Outputs gives the outputs of a valid derivation by their names, with those that
	// realisations tell; the zero path stands for one that nobody knows. It is asked with KeepOutputs, about
	// content-addressed derivations. nil: the store has none, and realisations mean nothing to it.
	Outputs func(ctx context.Context, drv storepath.Path) (map[string]storepath.Path, error)
}

// Derived is a graph that also knows which derivations made what.
type Derived interface {
	Graph
	// Keeps gives the edges that the database has; see Liveness for the settings.
	Keeps(outputs, derivations bool) func(i int) []int32
	// Unsettled are the derivations of which the database has no output's path, if there are
	// realisations, which may tell it.
	Unsettled() []int32
	// AddOutputs says what an unsettled derivation made, AddAnyOutputs that it may have made
	// anything to which realisations lead. One of them is called for each, before Keeps.
	AddOutputs(drv int32, outs []int32)
	AddAnyOutputs(drv int32)
}

// Keeps gives the edges that the settings add to a graph, and completes the graph for that: nobody
// else may use it meanwhile. A derivation that cannot be read is taken to have made all that any of
// them has: nothing is dead because of that.
func (l Liveness) Keeps(ctx context.Context, dir storepath.Dir, g Derived) (Keeps, error) {
	if l.KeepOutputs && l.Outputs != nil {
		for _, drv := range g.Unsettled() {
			p := g.Path(int(drv))
			outputs, err := l.Outputs(ctx, p)
			switch {
			case ctx.Err() != nil:
				return nil, context.Cause(ctx)
			case err != nil:
				activity.Warnf(ctx, "what derivation '%s' made stays, as nobody can tell what that is: %v", dir.Print(p), err)
				g.AddAnyOutputs(drv)
			default:
				g.AddOutputs(drv, findAll(g, outputs))
			}
		}
	}
	return g.Keeps(l.KeepOutputs, l.KeepDerivations), nil
}

// findAll gives the numbers of those of outputs that are valid.
func findAll(g Graph, outputs map[string]storepath.Path) (found []int32) {
	for _, p := range outputs {
		if p.IsZero() {
			continue
		}
		if i := g.Find(p); i >= 0 {
			found = append(found, int32(i)) //nolint:gosec // a number of a node
		}
	}
	return found
}
