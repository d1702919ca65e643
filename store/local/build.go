package local

import (
	"context"
	"fmt"

	"github.com/strata-nix/strata/builder"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Building is what builds in this store, and as which client it is seen there.
// seen is this store, or the one that is built on it.
func (s *Store) Building(seen builder.Store) (*builder.Builder, builder.View) {
	v := builder.View{Store: seen, Options: s.opts.Build, Writable: s.writable}
	v.Options.Fallback = s.opts.Fallback
	if v.Options.Execute.Users.StateDir == "" {
		v.Options.Execute.Users.StateDir = s.state
	}
	if !s.opts.NoSubstitute {
		v.Substituter = s.Substitution()
	}
	return s.builds, v
}

// QueryMissing plans, see [store.Planner].
func (s *Store) QueryMissing(ctx context.Context, targets []derivation.DerivedPath) (*store.Missing, error) {
	b, v := s.Building(s)
	return b.QueryMissing(ctx, v, targets)
}

// EnsurePath makes a path valid, see [store.Ensurer].
func (s *Store) EnsurePath(ctx context.Context, p storepath.Path) error {
	defer s.KeepFree(ctx)()
	b, v := s.Building(s)
	return b.EnsurePath(ctx, v, p)
}

// BuildPaths realises derived paths, see [store.Builder].
func (s *Store) BuildPaths(ctx context.Context, targets []derivation.DerivedPath, mode store.BuildMode) ([]*store.BuildResult, error) {
	defer s.KeepFree(ctx)()
	b, v := s.Building(s)
	return b.BuildPaths(ctx, v, targets, mode)
}

// BuildDerivation builds a derivation that need not be in the store, see
// [store.DerivationBuilder].
func (s *Store) BuildDerivation(ctx context.Context, p storepath.Path, d *derivation.Basic, mode store.BuildMode) (*store.BuildResult, error) {
	defer s.KeepFree(ctx)()
	b, v := s.Building(s)
	return b.BuildDerivation(ctx, v, p, d, mode)
}

// DerivationOutputs gives the outputs of a valid derivation: the paths that are
// in its file, and for those that only a build can tell, what was realised.
func (s *Store) DerivationOutputs(ctx context.Context, p storepath.Path) (map[string]storepath.Path, error) {
	drv, err := s.validDerivation(ctx, p)
	if err != nil {
		return nil, err
	}
	var realised store.RealisationQuerier
	if s.opts.CADerivations {
		realised = s
	}
	outputs, err := store.OutputsOf(ctx, s.dir, drv, s.hashes, realised)
	if err != nil {
		return nil, fmt.Errorf("outputs of derivation '%s': %w", s.dir.Print(p), err)
	}
	return outputs, nil
}
