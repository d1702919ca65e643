package overlay

import (
	"context"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// WhyAlive tells what keeps paths alive, see [store.Explainer]. Those that the upper's
// database has are kept by what keeps them there. Of the others, which no collection of the
// upper touches, it tells which of the upper's roots lead to them through all layers.
func (s *Store) WhyAlive(ctx context.Context, paths []storepath.Path, nearest bool) ([][]store.Reason, error) {
	out, err := s.Store.WhyAlive(ctx, paths, nearest)
	if err != nil {
		return nil, err
	}
	here, err := s.Store.DB().ValidPaths(ctx, paths)
	if err != nil {
		return nil, err
	}
	upper := storepath.NewSet(here...)
	rest := upper.Missing(paths)
	if len(rest) == 0 {
		return out, nil
	}
	below, err := gc.WhyAsking(ctx, s, rest, nearest)
	if err != nil {
		return nil, err
	}
	n := 0
	for i, p := range paths {
		if !upper.Has(p) {
			out[i] = below[n]
			n++
		}
	}
	return out, nil
}
