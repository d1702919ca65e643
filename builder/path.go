package builder

import (
	"context"
	"fmt"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
)

// pathGoal is the goal of having a store object as it is: valid already, or
// substituted.
type pathGoal struct {
	goal
	path   storepath.Path
	ca     storepath.ContentAddress // if it is known beforehand
	repair bool
}

func (r *request) path(p storepath.Path, ca storepath.ContentAddress, repair bool) *pathGoal {
	g := r.paths[p]
	if g == nil || g.state == open && repair && !g.repair {
		g = &pathGoal{path: p, ca: ca, repair: repair}
		r.paths[p] = g
		r.batch.paths = append(r.batch.paths, g)
	}
	return g
}

// checkPaths looks which paths are there.
func (r *request) checkPaths(ctx context.Context, gs []*pathGoal) error {
	paths := make([]storepath.Path, len(gs))
	for i, g := range gs {
		paths[i] = g.path
	}
	paths = storepath.SortUnique(paths)
	if err := r.roots.Add(ctx, paths); err != nil {
		return err
	}
	valid, err := r.Store.ValidPaths(ctx, paths)
	if err != nil {
		return err
	}
	have := storepath.NewSet(valid...)
	for _, g := range gs {
		switch {
		case !g.repair && have.Has(g.path):
			r.succeed(ctx, &g.goal, &store.BuildResult{Status: store.AlreadyValid})
		case r.Substituter == nil:
			r.end(ctx, &g.goal, unobtainable, &store.BuildResult{Status: store.NoSubstituters, Message: r.unobtainable(g.path)})
		default:
			r.batch.substitute = append(r.batch.substitute, g)
		}
	}
	return nil
}

func (r *request) unobtainable(p storepath.Path) string {
	return fmt.Sprintf("path '%s' is required, but there is no substituter that can build it", r.Store.Dir().Print(p))
}

// substitute gets paths from elsewhere.
func (r *request) substitute(ctx context.Context, gs []*pathGoal) {
	var some, again []*pathGoal
	for _, g := range gs {
		if g.repair {
			again = append(again, g)
		} else {
			some = append(some, g)
		}
	}
	for _, list := range [][]*pathGoal{some, again} {
		if len(list) > 0 {
			r.spawn(ctx, func(ctx context.Context) step { return r.fetch(ctx, list) })
		}
	}
}

// fetch substitutes paths that are all to be repaired or all not. What becomes of
// one of them is known before what becomes of others is.
func (r *request) fetch(ctx context.Context, gs []*pathGoal) step {
	byPath := make(map[storepath.Path]*pathGoal, len(gs))
	wanted := make([]substitute.Wanted, len(gs))
	for i, g := range gs {
		wanted[i] = substitute.Wanted{Path: g.path, CA: g.ca}
		byPath[g.path] = g
	}
	o, stop := r.substituteOptions(gs[0].repair)
	defer stop()
	o.Early = func(res substitute.Result) {
		r.tellLoop(ctx, func(ctx context.Context) error {
			r.fetched(ctx, byPath[res.Path], res)
			return nil
		})
	}
	results, err := r.Substituter.Substitute(ctx, wanted, o)
	return func(ctx context.Context) error {
		if err != nil {
			return err
		}
		for i, res := range results {
			r.fetched(ctx, gs[i], res)
		}
		return nil
	}
}

func (r *request) fetched(ctx context.Context, g *pathGoal, res substitute.Result) {
	if g.state != open {
		return // it was told early
	}
	result := &store.BuildResult{Status: res.Status}
	if res.Status.OK() {
		r.good.note(g.path, true)
		r.succeed(ctx, &g.goal, result)
		return
	}
	result.Message = r.unobtainable(g.path)
	if res.Err != nil {
		result.Message = res.Err.Error()
	}
	how := unobtainable
	if res.Failed {
		how = failed
	}
	r.end(ctx, &g.goal, how, result)
}

// substituteOutputs gets outputs from elsewhere whose paths are not known here.
func (r *request) substituteOutputs(ctx context.Context, os []*output) {
	ids := make([]store.DrvOutput, len(os))
	for i, o := range os {
		ids[i] = o.id()
	}
	r.spawn(ctx, func(ctx context.Context) step {
		o, stop := r.substituteOptions(false)
		defer stop()
		results, reals, err := r.Substituter.SubstituteRealisations(ctx, ids, o)
		return func(ctx context.Context) error {
			if err != nil {
				return err
			}
			for i, o := range os {
				if err := r.outputFetched(ctx, o, results[i], reals[i]); err != nil {
					return err
				}
			}
			return nil
		}
	})
}

func (r *request) outputFetched(ctx context.Context, o *output, res substitute.Result, real *store.Realisation) error {
	switch {
	case res.Status.OK() && real != nil:
		o.path, o.real = real.OutPath, real
		return r.substituted(ctx, o)
	case res.Failed && !r.Fallback:
		r.substitutesFailed(ctx, o)
	default:
		r.notSubstituted(o)
	}
	return nil
}

// substituteOptions are those of one call, whose progress counts until stop.
func (r *request) substituteOptions(repair bool) (o substitute.Options, stop func()) {
	observe, stop := r.progress.substitution()
	return substitute.Options{Repair: repair, Roots: r.roots, Observe: observe}, stop
}
