package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/store"
)

func newCatCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "cat PATH...",
		Short: "Print files of store objects",
		Long: `Print the contents of regular files in store objects, one after the other.

Symlinks inside the store are not followed.`,
		Example: "  strata cat --store local?root=/mnt /nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-hello/share/hello.txt",
		Args:    someArgs,
		RunE:    runner(func(ctx context.Context, args []string) error { return runCat(ctx, g, args) }),
	}
}

func runCat(ctx context.Context, g *globals, args []string) error {
	dir, err := g.storeDir(g.storeURI)
	if err != nil {
		return err
	}
	files := make([]insidePath, len(args))
	for i, arg := range args {
		if files[i], err = parseInside(dir, arg); err != nil {
			return err
		}
	}
	return g.with(ctx, func(st store.Store) error {
		for _, f := range files {
			obj, err := openObject(ctx, st, f.path)
			if err != nil {
				return err
			}
			if err := obj.cat(ctx, f.rest, g.out); err != nil {
				return err
			}
		}
		return nil
	})
}
