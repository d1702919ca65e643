package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
)

type gcOptions struct {
	survivors  int
	printRoots bool
	printDead  bool
	printLive  bool
	maxFreed   string
	json       bool
	gcPolicyOptions
}

func newGCCommand(g *globals) *cobra.Command {
	var o gcOptions
	cmd := &cobra.Command{
		Use:   "gc [STACK...]",
		Short: "Delete everything that no root reaches",
		Long: `Delete all store paths that no garbage collector root reaches, or only print what
is a root, dead or alive. Of a layered store only the upper layer loses anything.

With a stack, which is named or found by its strata.toml or upper, garbage is
collected by the policy that its strata.toml has (see gc there); flags win over it.
With --all that is done for all stacks that are up, with --due for those for which it
is time.`,
		Example: "  strata gc --delete-older-than 30d\n  strata gc -c strata.toml\n  strata gc --all --due",
		Args:    anyArgs,
		RunE: runner(func(ctx context.Context, args []string) error {
			o.names = args
			return runGC(ctx, g, o)
		}),
	}
	f := cmd.Flags()
	o.gcFlags(f)
	f.BoolVar(&o.printRoots, "print-roots", false, "print the roots and what they lead to, and delete nothing")
	f.BoolVar(&o.printDead, "print-dead", false, "print what would be deleted, and delete nothing")
	f.BoolVar(&o.printDead, "dry-run", false, "the same as --print-dead")
	f.BoolVar(&o.printLive, "print-live", false, "print what would not be deleted, and delete nothing")
	f.StringVar(&o.maxFreed, "max-freed", "", "stop when so many `BYTES` are freed; may end in K, M, G or T")
	f.IntVar(&o.survivors, "survivors", 10, "with --dry-run --json, explain so `MANY` of the paths that stay")
	f.BoolVar(&o.json, "json", false, "print JSON")
	cmd.MarkFlagsMutuallyExclusive("print-roots", "print-dead", "print-live")
	cmd.MarkFlagsMutuallyExclusive("print-roots", "dry-run", "print-live")
	return cmd
}

func runGC(ctx context.Context, g *globals, o gcOptions) error {
	maxFreed, err := parseSize(o.maxFreed)
	if err != nil {
		return &usageError{err}
	}
	if err := o.check(); err != nil {
		return &usageError{err}
	}
	if o.ofStacks() {
		once, err := o.once(o.printDead, maxFreed)
		if err != nil {
			return &usageError{err}
		}
		return collectStacks(ctx, g, o, once)
	}
	if g.storeURI, err = g.leased(g.storeURI, &o.gcPolicyOptions); err != nil {
		return err
	}
	return g.with(ctx, func(st store.Store) error {
		c, err := store.Need[store.Collector](st, "collectGarbage")
		if err != nil {
			return err
		}
		if o.old || o.older != "" {
			gone, err := deleteGenerations(ctx, g, st, &o.gcPolicyOptions, o.printDead || o.printLive || o.printRoots)
			if err != nil {
				return err
			}
			for _, generation := range gone {
				activity.Logf(ctx, activity.Notice, "removing generation %d of profile '%s'", generation.Number, generation.Profile)
			}
		}
		if o.printRoots {
			return printRoots(ctx, g.out, st, c, o.json)
		}
		opts := store.GCOptions{Action: store.DeleteDead, MaxFreed: maxFreed}
		switch {
		case o.printDead:
			opts.Action, opts.Measure, opts.Survivors = store.ReturnDead, o.json, 0
			if o.json {
				opts.Survivors = max(o.survivors, 0)
			}
		case o.printLive:
			opts.Action = store.ReturnLive
		}
		result, err := c.CollectGarbage(ctx, opts)
		switch {
		case result == nil || err != nil && opts.Action != store.DeleteDead:
			return err
		case opts.Action == store.DeleteDead:
			return errors.Join(printDeleted(g.out, result, o.json), err)
		case o.json && o.printDead:
			return printDryRun(ctx, g.out, st, result, opts.Survivors)
		case o.json:
			return printDeleted(g.out, result, true)
		}
		if !slices.IsSorted(result.Paths) {
			slices.Sort(result.Paths)
		}
		for _, p := range result.Paths {
			if err := g.out.println(p); err != nil {
				return err
			}
		}
		return nil
	})
}

// printRoots prints "link -> path", as Nix does.
func printRoots(ctx context.Context, out *output, st store.Store, c store.Collector, json bool) error {
	roots, err := c.FindRoots(ctx, false)
	if err != nil {
		return err
	}
	if json {
		all := make(map[string][]string, len(roots))
		for p, links := range roots {
			all[st.Dir().Print(p)] = slices.Sorted(slices.Values(links))
		}
		return out.printJSON(all)
	}
	var lines []string
	for p, links := range roots {
		for _, l := range links {
			lines = append(lines, l+" -> "+st.Dir().Print(p))
		}
	}
	slices.Sort(lines)
	for _, l := range slices.Compact(lines) {
		if err := out.println(l); err != nil {
			return err
		}
	}
	return nil
}

// parseSize reads a number of bytes; "" is no limit.
func parseSize(s string) (uint64, error) {
	if s == "" {
		return math.MaxUint64, nil
	}
	digits := strings.TrimRight(s, "KMGTkmgt")
	n, err := strconv.ParseUint(digits, 10, 64)
	shift := 0
	switch strings.ToUpper(s[len(digits):]) {
	case "":
	case "K":
		shift = 10
	case "M":
		shift = 20
	case "G":
		shift = 30
	case "T":
		shift = 40
	default:
		err = strconv.ErrSyntax
	}
	if err != nil || n > math.MaxUint64>>shift {
		return 0, fmt.Errorf("'%s' is not a number of bytes", s)
	}
	return n << shift, nil
}
