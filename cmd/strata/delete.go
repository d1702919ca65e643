package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/store"
)

type deleteOptions struct {
	ignoreLiveness bool
	skipAlive      bool
	referrers      bool
	recursive      bool
	json           bool
}

func newDeleteCommand(g *globals) *cobra.Command {
	var o deleteOptions
	cmd := &cobra.Command{
		Use:   "delete PATH...",
		Short: "Delete paths that nothing needs",
		Long: `Delete store paths. One that a root reaches, or that another path refers to, is not
deleted: it ends the command, after those before it, or with --skip-alive is passed over.
With --also-referrers what refers to a path goes with it. Of a layered store only the
upper layer loses anything; a path that is in a lower layer, too, is there afterwards.`,
		Args: someArgs,
		RunE: runner(func(ctx context.Context, args []string) error { return runDelete(ctx, g, o, args) }),
	}
	f := cmd.Flags()
	f.BoolVar(&o.ignoreLiveness, "ignore-liveness", false, "delete even what roots reach; not what other paths refer to")
	f.BoolVar(&o.skipAlive, "skip-alive", false, "pass over paths that cannot be deleted, instead of failing")
	f.BoolVar(&o.referrers, "also-referrers", false, "delete what refers to the paths, too")
	f.BoolVarP(&o.recursive, "recursive", "r", false, "delete all that the paths refer to, too, directly or not")
	f.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func runDelete(ctx context.Context, g *globals, o deleteOptions, args []string) error {
	paths, err := g.objects(args)
	if err != nil {
		return err
	}
	return g.with(ctx, func(st store.Store) error {
		c, err := store.Need[store.Collector](st, "collectGarbage")
		if err != nil {
			return err
		}
		if o.recursive {
			closure, err := closureOf(ctx, st, paths)
			if err != nil {
				return err
			}
			paths = pathsOf(closure)
		}
		result, err := c.CollectGarbage(ctx, store.GCOptions{
			Action: store.DeleteSpecific, Paths: paths, MaxFreed: store.NoLimit,
			IgnoreLiveness: o.ignoreLiveness, SkipAlive: o.skipAlive, Referrers: o.referrers,
		})
		if result == nil {
			return err
		}
		if err != nil && len(result.Paths) == 0 {
			return err
		}
		return errors.Join(printDeleted(g.out, result, o.json), err)
	})
}

// gcJSON is what a garbage collection did.
type gcJSON struct {
	Paths      []string `json:"paths"`
	BytesFreed uint64   `json:"bytesFreed"`
}

func printDeleted(out *output, r *store.GCResult, json bool) error {
	if json {
		return out.printJSON(gcJSON{append([]string{}, r.Paths...), r.BytesFreed})
	}
	return out.printf("%d store paths deleted, %s freed\n", len(r.Paths), size(r.BytesFreed))
}
