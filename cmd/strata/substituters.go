package main

import (
	"context"
	"slices"
	"strings"

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

// givenSubstituters are those that the command line chooses by --option, for who serves a stack by
// settings of its own; nil if it says nothing about them.
func (g *globals) givenSubstituters() (*[]string, error) {
	said := slices.ContainsFunc(g.options, func(option string) bool {
		name, _, _ := strings.Cut(option, "=")
		return slices.Contains([]string{"substitute", "substituters", "binary-caches"}, name)
	})
	if !said {
		return nil, nil //nolint:nilnil // as it says
	}
	c, err := g.config()
	if err != nil {
		return nil, err
	}
	uris := append([]string{}, c.local.Substituters...)
	if c.local.NoSubstitute {
		uris = []string{}
	}
	return &uris, nil
}
