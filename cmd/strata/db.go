package main

import (
	"context"
	"iter"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/registration"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func newDumpDBCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "dump-db [PATH...]",
		Short: "Print what is registered, for load-db",
		Long: `Print the registrations of some or of all paths, in the text form of
'nix-store --dump-db'. Signatures and content addresses have no place in it.`,
		Args: anyArgs,
		RunE: runner(func(ctx context.Context, args []string) error { return runDumpDB(ctx, g, args) }),
	}
}

func runDumpDB(ctx context.Context, g *globals, args []string) error {
	named, err := g.objects(args)
	if err != nil {
		return err
	}
	return g.with(ctx, func(st store.Store) error {
		var buf []byte
		for info, err := range registered(ctx, st, named) {
			if err != nil {
				return err
			}
			buf = registration.Append(buf[:0], st.Dir(), info)
			if _, err := g.out.Write(buf); err != nil {
				return err
			}
		}
		return nil
	})
}

// registered lists the infos of the paths that were named, or of all.
func registered(ctx context.Context, st store.Store, named []storepath.Path) iter.Seq2[*store.PathInfo, error] {
	if l, ok := store.As[store.InfoLister](st); ok && len(named) == 0 {
		return l.AllPathInfos(ctx)
	}
	return func(yield func(*store.PathInfo, error) bool) {
		paths, err := selectPaths(ctx, st, len(named) == 0, named)
		if err != nil {
			yield(nil, err)
			return
		}
		for q, err := range queryInfos(ctx, st, paths) {
			switch {
			case err == nil && q.info == nil && len(named) == 0:
				continue // deleted meanwhile
			case err == nil && q.info == nil:
				err = &store.InvalidPathError{Path: st.Dir().Print(q.path)}
			}
			if !yield(q.info, err) || err != nil {
				return
			}
		}
	}
}

func newLoadDBCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "load-db",
		Short: "Register paths that are in the store directory already",
		Long: `Read registrations in the text form of 'nix-store --dump-db' from standard input,
and make their paths valid, all of them or none. The objects must be in the store
directory already; they are not looked at.`,
		Example: "  strata dump-db --store local?root=/old | strata load-db --store local?root=/new",
		Args:    noArgs,
		RunE:    runner(func(ctx context.Context, _ []string) error { return runLoadDB(ctx, g) }),
	}
}

func runLoadDB(ctx context.Context, g *globals) error {
	return g.with(ctx, func(st store.Store) error {
		infos := registration.Read(g.input(ctx), st.Dir())
		n, err := load(ctx, st, infos)
		if err != nil {
			return err
		}
		activity.Logf(ctx, activity.Info, "%d paths registered", n)
		return nil
	})
}

func load(ctx context.Context, st store.Store, infos iter.Seq2[*store.PathInfo, error]) (int, error) {
	if l, ok := store.As[store.Loader](st); ok {
		return l.Load(ctx, infos)
	}
	r, err := store.Need[store.Registrar](st, "registerValidPaths")
	if err != nil {
		return 0, err
	}
	var all []*store.PathInfo
	for info, err := range infos {
		if err != nil {
			return 0, err
		}
		all = append(all, info)
	}
	return len(all), r.Register(ctx, all)
}
