package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

type copyOptions struct {
	from, to    string
	all         bool
	closure     bool
	noCheckSigs bool
	dryRun      bool
	json        bool
}

func newCopyCommand(g *globals) *cobra.Command {
	var o copyOptions
	cmd := &cobra.Command{
		Use:   "copy [--from URI] [--to URI] PATH...",
		Short: "Copy paths from one store to another",
		Long: `Copy store paths, and with --closure what they refer to, from one store to
another. What is valid there already is passed over. The store that --from or
--to does not name is the one of --store.`,
		Example: "  strata copy --from daemon --to local?root=/mnt --closure /nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-hello",
		Args:    anyArgs,
		RunE:    runner(func(ctx context.Context, args []string) error { return runCopy(ctx, g, o, args) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "the store to copy from, as a `URI`")
	f.StringVar(&o.to, "to", "", "the store to copy to, as a `URI`")
	f.BoolVarP(&o.closure, "closure", "r", false, "also copy what the paths refer to, directly or not")
	f.BoolVar(&o.all, "all", false, "copy all paths of the store")
	f.BoolVar(&o.noCheckSigs, "no-check-sigs", false, "copy also what no trusted key has signed, if we may")
	f.BoolVar(&o.dryRun, "dry-run", false, "only print the paths that would be copied")
	f.BoolVar(&o.json, "json", false, "print JSON about what was copied")
	cmd.MarkFlagsMutuallyExclusive("all", "closure")
	return cmd
}

func runCopy(ctx context.Context, g *globals, o copyOptions, args []string) (err error) {
	if o.all == (len(args) > 0) {
		return &usageError{errors.New("give paths or --all, and not both")}
	}
	if o.from == "" && o.to == "" {
		return &usageError{errors.New("say where to copy to, or from, with --to or --from")}
	}
	from := cmp.Or(o.from, g.storeURI)
	dir, err := g.storeDir(from)
	if err != nil {
		return err
	}
	named, err := parseObjects(dir, args)
	if err != nil {
		return err
	}
	src, err := g.openURI(ctx, from)
	if err != nil {
		return err
	}
	defer closeWith(src, &err)
	dst, err := g.openURI(ctx, cmp.Or(o.to, g.storeURI))
	if err != nil {
		return err
	}
	defer closeWith(dst, &err)
	if src.Dir() != dst.Dir() {
		return fmt.Errorf("cannot copy from '%s' to '%s': the one is of store directory '%s', the other of '%s'",
			src.URI(), dst.URI(), src.Dir(), dst.Dir())
	}
	infos, err := o.wanted(ctx, src, named)
	if err != nil {
		return err
	}
	missing, err := missingIn(ctx, dst, infos)
	if err != nil {
		return err
	}
	activity.Logf(ctx, activity.Info, "copying %d paths (%s), %d are already there", len(missing), size(totalSize(missing)), len(infos)-len(missing))
	if !o.dryRun && len(missing) > 0 {
		if err := copyPaths(ctx, src, dst, missing, o.noCheckSigs); err != nil {
			return err
		}
	}
	return o.print(g.out, src.Dir(), missing, len(infos)-len(missing))
}

func closeWith(st store.Store, err *error) {
	if cerr := st.Close(); *err == nil {
		*err = cerr
	}
}

// wanted gives the infos of what is to be copied, references first.
func (o copyOptions) wanted(ctx context.Context, src store.Store, named []storepath.Path) ([]*store.PathInfo, error) {
	paths, err := selectPaths(ctx, src, o.all, named)
	if err != nil {
		return nil, err
	}
	if o.closure {
		return store.Closure(ctx, src, paths)
	}
	infos, err := src.PathInfos(ctx, paths)
	if err != nil {
		return nil, err
	}
	for i, info := range infos {
		if info == nil {
			return nil, &store.InvalidPathError{Path: src.Dir().Print(paths[i])}
		}
	}
	return store.SortByReferences(src.Dir(), infos)
}

// missingIn keeps those that are not valid in dst, in their order.
func missingIn(ctx context.Context, dst store.Store, infos []*store.PathInfo) ([]*store.PathInfo, error) {
	valid, err := dst.ValidPaths(ctx, pathsOf(infos))
	if err != nil {
		return nil, err
	}
	there := storepath.NewSet(valid...)
	var missing []*store.PathInfo
	for _, info := range infos {
		if !there.Has(info.Path) {
			missing = append(missing, info)
		}
	}
	return missing, nil
}

func copyPaths(ctx context.Context, src, dst store.Store, infos []*store.PathInfo, noCheckSigs bool) error {
	nars, err := store.Need[store.NarSource](src, "narFromPath")
	if err != nil {
		return err
	}
	ctx, act := activity.Start(ctx, activity.Info, activity.CopyPaths, "")
	defer act.Stop()
	ao := store.AddOptions{NoCheckSigs: noCheckSigs}
	if r, ok := store.As[store.TempRooter](dst); ok {
		ao.Roots = r.NewTempRoots()
		defer ao.Roots.Close()
	}
	objects := &objectsOf{ctx: ctx, from: src, nars: nars, to: dst, infos: infos, total: act}
	defer objects.close()
	return store.AddMultiple(ctx, dst, objects, ao)
}

func (o copyOptions) print(out *output, dir storepath.Dir, copied []*store.PathInfo, present int) error {
	paths := dir.PrintAll(pathsOf(copied))
	if o.json {
		return out.printJSON(struct {
			Copied       []string `json:"copied"`
			AlreadyThere int      `json:"alreadyThere"`
			NarSize      uint64   `json:"narSize"`
		}{paths, present, totalSize(copied)})
	}
	if !o.dryRun {
		return nil
	}
	for _, p := range paths {
		if err := out.println(p); err != nil {
			return err
		}
	}
	return nil
}
