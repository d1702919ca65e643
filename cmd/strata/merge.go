package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/merge"
	"github.com/strata-nix/strata/stack"
	"github.com/strata-nix/strata/storepath"
)

type mergeOptions struct {
	merging
	over         []string
	storeDir     string
	firstWins    bool
	allowMissing bool
}

func newMergeCommand(g *globals) *cobra.Command {
	var o mergeOptions
	cmd := &cobra.Command{
		Use:   "merge LOWER... TARGET",
		Short: "Make one lower store of several",
		Long: `Write the objects of lower stores, and what their databases say of them, as one lower
store: a directory with nix/store and nix/var/nix/db in it, or an EROFS image of one. A
lower is given as for 'strata up': a directory, an image, or the URI of a store.

That two of them have a path with different contents is an error that names all such
paths, unless --first-wins says that the first one's is right. That an object is
needed and none of them has it is an error, too: with --over the new lower is meant to lie over
others that have it.

The lowers must not be collected meanwhile. The contents are compared with their hashes as
they are written. The target appears when everything is on disk. The same objects give the
same image, byte by byte; with SOURCE_DATE_EPOCH set, that is when the paths were
registered, else 1. Images are mounted for that, which takes root.`,
		Example: `  strata merge ./team.erofs /mnt/base all.erofs
  strata merge --over /mnt/base ./today ./yesterday ./week`,
		Args: usageArgs(cobra.MinimumNArgs(2)),
		RunE: runner(func(ctx context.Context, args []string) error { return runMerge(ctx, g, o, args) }),
	}
	f := cmd.Flags()
	o.addFlags(f)
	f.StringArrayVar(&o.over, "over", nil, "a `LOWER` that the new one is to lie over: its objects are left out; may be repeated")
	f.BoolVar(&o.firstWins, "first-wins", false, "of different contents, take those of the first lower")
	f.BoolVar(&o.allowMissing, "allow-missing", false, "write it although objects are missing that it refers to")
	f.StringVar(&o.storeDir, "store-dir", "", "the store `DIR` of the lowers (default: NIX_STORE_DIR or /nix/store)")
	return cmd
}

func runMerge(ctx context.Context, g *globals, o mergeOptions, args []string) (err error) {
	target := args[len(args)-1]
	if _, err := o.image(target); err != nil {
		return err
	}
	lowers, err := parseLowers(append(args[:len(args)-1:len(args)-1], o.over...))
	if err != nil {
		return &usageError{err}
	}
	c, err := g.config()
	if err != nil {
		return err
	}
	if o.storeDir != "" {
		if c.dir, err = storepath.ParseDir(o.storeDir); err != nil {
			return &usageError{err}
		}
	}
	cwd, err := os.Getwd()
	if err != nil {
		return err
	}
	images, err := stack.HasImage(lowers, cwd)
	if err != nil {
		return err
	}
	if images {
		if again, err := privately(ctx); again || err != nil {
			return err
		}
	}
	mounts, err := os.MkdirTemp("", "strata-merge-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stack.RemoveMountPoints(mounts)) }()
	opened, err := stack.OpenLowers(ctx, lowers, stack.OpenLowersOptions{WorkingDir: cwd, StoreDir: c.dir, Mounts: mounts, Open: c.open})
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range opened {
			err = errors.Join(err, l.Close(ctx))
		}
	}()
	return o.merge(ctx, g, opened, target)
}

func (o *mergeOptions) merge(ctx context.Context, g *globals, opened []*stack.OpenLower, target string) error {
	var layers []merge.Layer
	for i, l := range opened {
		take := merge.All
		if i >= len(opened)-len(o.over) {
			take = merge.Infos
		}
		layers = append(layers, merge.Layer{Name: l.Name, Store: l.Store, Dir: l.Dir, Take: take})
	}
	dir := layers[0].Store.Dir()
	opts, err := o.roots(dir)
	if err != nil {
		return err
	}
	plan, err := merge.MakePlan(ctx, layers, opts)
	if err != nil {
		return err
	}
	if err := o.refuse(plan, dir); err != nil && (!o.dryRun || !o.json) {
		return err
	}
	return o.write(ctx, g, plan, dir, target)
}

// refuse tells what is in the way.
func (o *mergeOptions) refuse(plan *merge.Plan, dir storepath.Dir) error {
	if len(plan.Conflicts) > 0 && !o.firstWins {
		var lines []string
		for _, c := range plan.Conflicts {
			lines = append(lines, fmt.Sprintf("%s: %s in '%s', %s in '%s'", dir.Print(c.Path), c.Want, c.First, c.Got, c.Other))
		}
		return fmt.Errorf("%s have different contents; --first-wins takes those of the first lower:\n  %s", plural(len(lines), "path"), someOf(lines))
	}
	if len(plan.Missing) > 0 && !o.allowMissing {
		var lines []string
		for _, p := range plan.Missing {
			lines = append(lines, dir.Print(p))
		}
		return fmt.Errorf("%s referred to and in none of the lowers; --over tells of others that have them:\n  %s", plural(len(lines), "object"), someOf(lines))
	}
	return nil
}
