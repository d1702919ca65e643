package overlay

import (
	"context"
	"errors"
	"time"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// DerivationOutputs asks the layer in which the derivation is valid.
func (s *Store) DerivationOutputs(ctx context.Context, drv storepath.Path) (map[string]storepath.Path, error) {
	here, err := s.Store.DB().ValidPaths(ctx, []storepath.Path{drv})
	if err != nil {
		return nil, err
	}
	if len(here) > 0 {
		return s.Store.DerivationOutputs(ctx, drv)
	}
	for _, l := range s.lowers {
		valid, err := l.ValidPaths(ctx, []storepath.Path{drv})
		if err != nil {
			return nil, err
		}
		if len(valid) > 0 {
			return l.derivationOutputs(ctx, drv)
		}
	}
	return nil, &store.InvalidPathError{Path: s.Dir().Print(drv)}
}

// QueryMissing plans over all layers.
func (s *Store) QueryMissing(ctx context.Context, targets []derivation.DerivedPath) (*store.Missing, error) {
	b, v := s.Building(s)
	return b.QueryMissing(ctx, v, targets)
}

// BuildPaths realises derived paths: inputs and outputs are those of any layer, and
// what is built lands in the upper. What was asked for is leaned on then, so its
// metadata is copied up.
func (s *Store) BuildPaths(ctx context.Context, targets []derivation.DerivedPath, mode store.BuildMode) ([]*store.BuildResult, error) {
	defer s.KeepFree(ctx)()
	b, v := s.Building(s)
	results, err := b.BuildPaths(ctx, v, targets, mode)
	if err != nil {
		return nil, err
	}
	var have []storepath.Path
	for i, r := range results {
		if r == nil || !r.Status.OK() {
			continue
		}
		have = append(have, targets[i].Path)
		for _, o := range r.Outputs {
			have = append(have, o.OutPath)
		}
	}
	return results, s.leanOn(ctx, have)
}

// BuildDerivation builds a derivation that need not be in any layer.
func (s *Store) BuildDerivation(ctx context.Context, p storepath.Path, d *derivation.Basic, mode store.BuildMode) (*store.BuildResult, error) {
	defer s.KeepFree(ctx)()
	b, v := s.Building(s)
	r, err := b.BuildDerivation(ctx, v, p, d, mode)
	if err != nil || !r.Status.OK() {
		return r, err
	}
	var have []storepath.Path
	for _, o := range r.Outputs {
		have = append(have, o.OutPath)
	}
	return r, s.leanOn(ctx, have)
}

// EnsurePath makes a path valid that no layer has, or copies its metadata up.
func (s *Store) EnsurePath(ctx context.Context, p storepath.Path) error {
	defer s.KeepFree(ctx)()
	b, v := s.Building(s)
	if err := b.EnsurePath(ctx, v, p); err != nil {
		return err
	}
	return s.leanOn(ctx, []storepath.Path{p})
}

// FetchedFor sums up what came from all lowers.
func (s *Store) FetchedFor(ctx context.Context, parent int, since time.Time) (sum uint64, err error) {
	for _, l := range s.lowers {
		if m, ok := store.As[store.FetchMeter](l.Store); ok {
			n, merr := m.FetchedFor(ctx, parent, since)
			sum, err = sum+n, errors.Join(err, merr)
		}
	}
	return sum, err
}

// leanOn is for paths that somebody has asked for to use them.
func (s *Store) leanOn(ctx context.Context, paths []storepath.Path) error {
	paths = storepath.SortUnique(paths)
	s.show(ctx, paths)
	return s.Store.Adopt(ctx, paths)
}
