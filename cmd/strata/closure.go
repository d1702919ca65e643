package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

type closureOptions struct {
	reverse bool
	json    bool
}

func newClosureCommand(g *globals) *cobra.Command {
	var o closureOptions
	cmd := &cobra.Command{
		Use:   "closure PATH...",
		Short: "Print all paths that some refer to, or that refer to them",
		Long: `Print the closure of store paths: they and everything that they refer to, directly
or not, what is referred to first. With --reverse, they and everything that
refers to them in this store, sorted.`,
		Args: someArgs,
		RunE: runner(func(ctx context.Context, args []string) error { return runClosure(ctx, g, o, args) }),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.reverse, "reverse", "r", false, "follow references backwards")
	f.BoolVar(&o.json, "json", false, "print a JSON list")
	return cmd
}

func runClosure(ctx context.Context, g *globals, o closureOptions, args []string) error {
	paths, err := g.objects(args)
	if err != nil {
		return err
	}
	return g.with(ctx, func(st store.Store) error {
		if paths, err = o.closure(ctx, st, paths); err != nil {
			return err
		}
		full := st.Dir().PrintAll(paths)
		if o.json {
			return g.out.printJSON(full)
		}
		for _, p := range full {
			if err := g.out.println(p); err != nil {
				return err
			}
		}
		return nil
	})
}

func (o closureOptions) closure(ctx context.Context, st store.Store, paths []storepath.Path) ([]storepath.Path, error) {
	if !o.reverse {
		infos, err := closureOf(ctx, st, paths)
		return pathsOf(infos), err
	}
	q, err := store.Need[store.ReferrerQuerier](st, "queryReferrers")
	if err != nil {
		return nil, err
	}
	if err := mustBeValid(ctx, st, paths); err != nil {
		return nil, err
	}
	all, err := store.ReferrerClosure(ctx, q, paths)
	return storepath.SortUnique(all), err
}

func pathsOf(infos []*store.PathInfo) []storepath.Path {
	paths := make([]storepath.Path, len(infos))
	for i, info := range infos {
		paths[i] = info.Path
	}
	return paths
}

// mustBeValid fails with the first of paths that is not.
func mustBeValid(ctx context.Context, st store.Store, paths []storepath.Path) error {
	valid, err := st.ValidPaths(ctx, paths)
	if err != nil {
		return err
	}
	set := storepath.NewSet(valid...)
	for _, p := range paths {
		if !set.Has(p) {
			return &store.InvalidPathError{Path: st.Dir().Print(p)}
		}
	}
	return nil
}
