package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/stack"
	"github.com/strata-nix/strata/store"
)

type refreshOptions struct {
	stackSelection
	json bool
}

func newRefreshCommand(g *globals) *cobra.Command {
	var o refreshOptions
	cmd := &cobra.Command{
		Use:   "refresh [NAME...]",
		Short: "Make visible what lower stores have gained",
		Long: `After a lower store has grown, make its new objects visible to everything that runs
on a layered store, without disturbing it. The stacks are named, or found by their
strata.toml or upper; otherwise all that are up are meant.

A stack does this by itself when it notices that a lower has changed (see watch in
strata.toml), or when a client asks for an object that does not show yet. It takes
some milliseconds, or a second when programs have looked at hundreds of thousands
of files.

The owners of lowers that take part are told anew what is used of them.`,
		Example: "  strata refresh dev\n  strata refresh -c strata.toml --json",
		Args:    anyArgs,
		RunE: runner(func(ctx context.Context, args []string) error {
			o.names = args
			return runRefresh(ctx, g, o)
		}),
	}
	o.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// refreshPatience is how long a command that has done its work waits for stacks.
const refreshPatience = 10 * time.Second

// refreshOver makes what was written to a store visible in the stacks of this machine
// that have it for a lower. Those that cannot be asked notice it by themselves.
func refreshOver(ctx context.Context, written store.Store) {
	d, ok := store.As[store.Directory](written)
	if !ok || d.RealDir() == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, refreshPatience)
	defer cancel()
	refreshed, err := stack.RefreshOver(ctx, d.RealDir())
	if err != nil {
		activity.Warnf(ctx, "%v", err)
	}
	if len(refreshed) > 0 {
		activity.Logf(ctx, activity.Info, "refreshed the stacks over it: %s", strings.Join(refreshed, ", "))
	}
}

func runRefresh(ctx context.Context, g *globals, o refreshOptions) error {
	runs, err := o.runs()
	all := make([]*stack.RefreshResult, 0, len(runs))
	for _, r := range runs {
		done, askErr := r.Refresh(ctx)
		if askErr != nil {
			err = errors.Join(err, notUp(askErr))
			continue
		}
		all = append(all, done)
	}
	if o.json {
		return errors.Join(g.out.printJSON(all), err)
	}
	if len(runs) == 0 && err == nil {
		return &absentError{"no stack is up"}
	}
	for _, r := range all {
		line := fmt.Sprintf("%s: refreshed in %s", r.Stack, time.Duration(r.Seconds*float64(time.Second)).Round(time.Millisecond/10))
		if len(r.Grown) > 0 {
			line += "; changed: " + strings.Join(r.Grown, ", ")
		}
		if r.ListingsStale {
			line += "; programs that hold the store directory open may go on seeing an old listing"
		}
		err = errors.Join(err, g.out.println(line))
	}
	return err
}
