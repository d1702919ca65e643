package main

import (
	"context"
	"errors"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
)

// openSubstituters opens those of the configured substituters that are of a kind
// that we know. One that cannot be opened is told and passed over, as others may
// have what is wanted.
func (c *config) openSubstituters(ctx context.Context) ([]store.Store, error) {
	var opened []store.Store
	for _, uri := range c.substituters {
		ref, err := store.ParseReference(uri)
		if err == nil {
			var s store.Store
			if s, err = c.open(ctx, ref); err == nil {
				opened = append(opened, s)
				continue
			}
		}
		if ctx.Err() != nil {
			for _, s := range opened {
				err = errors.Join(err, s.Close())
			}
			return nil, err
		}
		activity.Warnf(ctx, "cannot use substituter '%s': %v", uri, err)
	}
	return opened, nil
}
