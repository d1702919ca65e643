package local

import (
	"context"
	"fmt"
	"os"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
)

// leasedRoots are what those use who have this store for a lower. That a lease
// cannot be read is an error: what it keeps is not known.
func (s *Store) leasedRoots(ctx context.Context) (store.Roots, error) {
	if s.opts.Leases == nil {
		return nil, nil
	}
	return s.opts.Leases.Roots(ctx, s, s.opts.SkipLeases...)
}

// announceCollection tells those who have this store for a lower that garbage is
// collected until over is called. The context ends if that cannot be kept up.
func (s *Store) announceCollection(ctx context.Context) (_ context.Context, over func(), err error) {
	if s.opts.Leases == nil {
		return ctx, func() {}, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, nil, err
	}
	c, err := s.opts.Leases.Collect(ctx, fmt.Sprintf("process %d on %s", os.Getpid(), host))
	if err != nil {
		return nil, nil, fmt.Errorf("collecting garbage: %w", err)
	}
	return c.Context(), func() {
		if err := c.End(); err != nil {
			activity.Warnf(ctx, "%v; until it has expired, consumers begin to lean on nothing more", err)
		}
	}, nil
}
