package main

import (
	"context"

	"github.com/strata-nix/strata/store"
)

// openSubstituter opens one of the configured substituters.
func (c *config) openSubstituter(ctx context.Context, uri string) (store.Store, error) {
	ref, err := parseReference(uri)
	if err != nil {
		return nil, err
	}
	return c.open(ctx, ref)
}
