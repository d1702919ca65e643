package local

import (
	"context"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
)

// Substitution is the engine that gets objects for this view of the store. On a
// layered store it gets nothing that any layer has.
func (s *Store) Substitution() *substitute.Engine { return s.engine }

// substitution are the settings that substitution obeys.
func (o Options) substitution() substitute.Settings {
	return substitute.Settings{
		URIs:        o.Substituters,
		Off:         o.NoSubstitute,
		Fallback:    o.Fallback,
		Jobs:        o.SubstitutionJobs,
		RequireSigs: o.RequireSigs,
		TrustedKeys: o.TrustedKeys,
		AnswerAge:   o.AnswerAge,
	}
}

// SubstitutablePaths asks the substituters, see [store.SubstituterQuerier].
func (s *Store) SubstitutablePaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	return s.Substitution().SubstitutablePaths(ctx, paths)
}

// Substitutables asks the substituters, see [store.SubstituterQuerier].
func (s *Store) Substitutables(ctx context.Context, paths []storepath.Path, cas []storepath.ContentAddress) ([]*store.Substitutable, error) {
	wanted := substitute.Opaque(paths...)
	for i := range wanted {
		wanted[i].CA = cas[i]
	}
	return s.Substitution().Substitutables(ctx, wanted)
}
