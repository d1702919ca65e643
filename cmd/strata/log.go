package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func newLogCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "log PATH",
		Short: "Print the build log of a path",
		Long: `Print what the build of a derivation printed. Of any other path it is that of the
derivation that made it. A log that the store has not is looked for in the
substituters of nix.conf.`,
		Example: "  strata log /nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-hello",
		Args:    exactlyOne,
		RunE:    runner(func(ctx context.Context, args []string) error { return runLog(ctx, g, args) }),
	}
}

func runLog(ctx context.Context, g *globals, args []string) error {
	paths, err := g.objects(args)
	if err != nil {
		return err
	}
	return g.with(ctx, func(st store.Store) error {
		drvs, err := derivationsOf(ctx, st, paths[0])
		if err != nil {
			return err
		}
		log, err := findLog(ctx, g.cfg, st, drvs)
		if err != nil {
			return err
		}
		defer log.Close()
		_, err = io.Copy(g.out, log)
		return err
	})
}

// derivationsOf gives what may have made a path: itself, if it is a derivation.
func derivationsOf(ctx context.Context, st store.Store, p storepath.Path) ([]storepath.Path, error) {
	if p.IsDerivation() {
		return []storepath.Path{p}, nil
	}
	info, err := store.PathInfoOf(ctx, st, p)
	if err != nil {
		return nil, err
	}
	var drvs []storepath.Path
	if q, ok := store.As[store.DeriverQuerier](st); ok {
		if drvs, err = q.ValidDerivers(ctx, p); err != nil {
			return nil, err
		}
	}
	if !info.Deriver.IsZero() {
		drvs = append([]storepath.Path{info.Deriver}, drvs...)
	}
	if len(drvs) == 0 {
		return nil, &absentError{fmt.Sprintf("it is not known which derivation made '%s'", st.Dir().Print(p))}
	}
	return storepath.SortUnique(drvs), nil
}

// findLog asks the store, then its substituters.
func findLog(ctx context.Context, c *config, st store.Store, drvs []storepath.Path) (io.ReadCloser, error) {
	log, err := logIn(ctx, st, drvs)
	if err != nil || log != nil {
		return log, err
	}
	sources, failed, err := c.pool.Sources(ctx, c.local.Substituters)
	if err != nil {
		return nil, err
	}
	for _, f := range failed {
		activity.Warnf(ctx, "%v", f)
	}
	for _, s := range sources {
		log, err := logIn(ctx, s.Store, drvs)
		if err != nil {
			activity.Warnf(ctx, "%v", err)
		} else if log != nil {
			return log, nil
		}
	}
	return nil, &absentError{fmt.Sprintf("build log of '%s' is not available", st.Dir().Print(drvs[0]))}
}

// logIn gives nil where a store has no log, or no logs at all.
func logIn(ctx context.Context, st store.Store, drvs []storepath.Path) (io.ReadCloser, error) {
	q, ok := store.As[store.LogQuerier](st)
	if !ok {
		return nil, nil
	}
	for _, drv := range drvs {
		log, err := q.BuildLog(ctx, drv)
		if err == nil || !errors.Is(err, store.ErrNoLog) {
			return log, err
		}
	}
	return nil, nil
}
