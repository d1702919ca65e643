package substitute

import (
	"context"
	"fmt"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// SubstitutablePaths gives those of paths that sources have which can be asked
// about many ([Source.MassQuery]), valid here or not. A source that cannot be
// asked is only a warning.
func (e *Engine) SubstitutablePaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	ctx = store.WithAnswerAge(ctx, e.settings.AnswerAge)
	sources, err := e.Sources(ctx)
	if err != nil {
		return nil, err
	}
	have := storepath.Set{}
	for _, s := range sources {
		rest := have.Missing(paths)
		if len(rest) == 0 {
			break
		}
		if !s.MassQuery || s.Store.Dir() != e.dest.Dir() {
			continue
		}
		valid, err := s.Store.ValidPaths(ctx, rest)
		if ended := context.Cause(ctx); ended != nil {
			return nil, ended
		}
		if err != nil {
			activity.Warnf(ctx, "%v", fmt.Errorf("asking substituter '%s': %w", s.Name, err))
		}
		for _, p := range valid {
			have.Add(p)
		}
	}
	out := make([]storepath.Path, 0, len(have))
	for _, p := range paths {
		if have.Has(p) {
			out = append(out, p)
		}
	}
	return out, nil
}

// Substitutables gives what sources know of each path, nil where none has it,
// see [store.SubstituterQuerier]. What could not be asked is an error as with Plan.
func (e *Engine) Substitutables(ctx context.Context, wanted []Wanted) ([]*store.Substitutable, error) {
	ctx = store.WithAnswerAge(ctx, e.settings.AnswerAge)
	r, err := e.newRequest(ctx)
	if err != nil {
		return nil, err
	}
	r.silent = true
	answers, err := r.find(ctx, wanted, nil)
	if err != nil {
		return nil, err
	}
	out := make([]*store.Substitutable, len(wanted))
	for i, got := range answers {
		if got.found == nil {
			if got.err != nil && !e.settings.Fallback {
				return nil, got.err
			}
			continue
		}
		out[i] = &store.Substitutable{
			Path: wanted[i].Path, Deriver: got.info.Deriver, References: got.info.References,
			DownloadSize: got.size, NarSize: got.info.NarSize,
		}
	}
	return out, nil
}
