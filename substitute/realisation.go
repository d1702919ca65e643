package substitute

import (
	"context"
	"fmt"
	"slices"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
)

// Realisations gives what sources know of outputs of content-addressed derivations, nil
// where none of them does. One that no trusted key has signed counts as little as
// an object. A source that cannot be asked is only a warning.
func (e *Engine) Realisations(ctx context.Context, ids []store.DrvOutput) ([]*store.Realisation, error) {
	ctx = store.WithAnswerAge(ctx, e.settings.AnswerAge)
	sources, err := e.Sources(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]*store.Realisation, len(ids))
	for _, s := range sources {
		q, ok := store.As[store.RealisationQuerier](s.Store)
		if !ok || s.Store.Dir() != e.dest.Dir() {
			continue
		}
		var rest []store.DrvOutput
		var where []int
		for i, r := range out {
			if r == nil {
				rest, where = append(rest, ids[i]), append(where, i)
			}
		}
		if len(rest) == 0 {
			break
		}
		list, err := q.Realisations(ctx, rest)
		if ended := context.Cause(ctx); ended != nil {
			return nil, ended
		}
		if err == nil && len(list) != len(rest) {
			err = fmt.Errorf("%d answers to %d questions", len(list), len(rest))
		}
		if err != nil {
			activity.Warnf(ctx, "asking substituter '%s' for realisations: %v", s.Name, err)
			continue
		}
		for n, r := range list {
			if r != nil && e.believes(ctx, &s, rest[n], r) {
				out[where[n]] = r
			}
		}
	}
	return out, nil
}

// believes tells whether what a source says of an output can be taken.
func (e *Engine) believes(ctx context.Context, s *Source, id store.DrvOutput, r *store.Realisation) bool {
	if r.ID != id {
		activity.Errorf(ctx, "asked '%s' for the realisation of '%s' but got that of '%s'", s.Name, id, r.ID)
		return false
	}
	if !e.settings.RequireSigs || s.Trusted || e.settings.TrustedKeys.CountValidRealisation(r) > 0 {
		return true
	}
	activity.Warnf(ctx, "ignoring the realisation of '%s' from '%s', as it's not signed by any of the keys in 'trusted-public-keys'", id, s.Name)
	return false
}

// SubstituteRealisations finds realisations in sources, makes their paths valid,
// and then registers them. There is a result for each of ids, in their order, and
// the realisation where its status is OK. Of one that no source knows the status
// is NoSubstituters. What the destination knows is AlreadyValid if its path is
// valid too.
func (e *Engine) SubstituteRealisations(ctx context.Context, ids []store.DrvOutput, o Options) ([]Result, []*store.Realisation, error) {
	known, err := e.known(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	all, err := e.complete(ctx, ids, known)
	if err != nil {
		return nil, nil, err
	}
	results := make([]Result, len(ids))
	var wanted []Wanted
	var where []int
	for i, r := range all {
		if r == nil {
			results[i] = Result{Status: store.NoSubstituters, Err: fmt.Errorf("derivation output '%s' is required, but there is no substituter that can provide it", ids[i])}
			continue
		}
		wanted, where = append(wanted, Wanted{Path: r.OutPath}), append(where, i)
	}
	came, err := e.Substitute(ctx, wanted, o)
	if err != nil {
		return nil, nil, err
	}
	var fresh []*store.Realisation
	for n, i := range where {
		results[i] = came[n]
		switch {
		case !came[n].Status.OK():
			all[i] = nil
		case known[i] == nil:
			results[i].Status = store.Substituted
			fresh = append(fresh, all[i])
		}
	}
	return results, all, e.register(ctx, fresh)
}

// known asks the destination.
func (e *Engine) known(ctx context.Context, ids []store.DrvOutput) ([]*store.Realisation, error) {
	q, err := store.Need[store.RealisationQuerier](e.dest, "queryRealisation")
	if err != nil {
		return nil, err
	}
	return q.Realisations(ctx, ids)
}

// complete asks sources for what is not known.
func (e *Engine) complete(ctx context.Context, ids []store.DrvOutput, known []*store.Realisation) ([]*store.Realisation, error) {
	all := slices.Clone(known)
	var open []store.DrvOutput
	var where []int
	for i, r := range known {
		if r == nil {
			open, where = append(open, ids[i]), append(where, i)
		}
	}
	found, err := e.Realisations(ctx, open)
	if err != nil {
		return nil, err
	}
	for n, r := range found {
		all[where[n]] = r
	}
	return all, nil
}

func (e *Engine) register(ctx context.Context, rs []*store.Realisation) error {
	if len(rs) == 0 {
		return nil
	}
	reg, err := store.Need[store.RealisationRegistrar](e.dest, "registerDrvOutput")
	if err != nil {
		return err
	}
	return reg.RegisterRealisations(ctx, rs)
}
