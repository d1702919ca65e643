package main

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/store"
)

func newAddRootCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "add-root LINK PATH",
		Short: "Keep a path from being deleted",
		Long: `Make LINK a symlink to PATH and register it as a garbage collector root: PATH and
what it refers to stay in the store for as long as LINK is there.`,
		Example: "  strata add-root ./result /nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-hello",
		Args:    exactlyTwo,
		RunE:    runner(func(ctx context.Context, args []string) error { return runAddRoot(ctx, g, args[0], args[1]) }),
	}
}

func runAddRoot(ctx context.Context, g *globals, link, target string) error {
	link, err := filepath.Abs(link)
	if err != nil {
		return err
	}
	paths, err := g.objects([]string{target})
	if err != nil {
		return err
	}
	return g.with(ctx, func(st store.Store) error {
		k, err := store.Need[store.RootKeeper](st, "addPermRoot")
		if err != nil {
			return err
		}
		if err := mustBeValid(ctx, st, paths); err != nil {
			return err
		}
		made, err := k.AddPermRoot(ctx, paths[0], link)
		if err != nil {
			return err
		}
		return g.out.println(made)
	})
}
