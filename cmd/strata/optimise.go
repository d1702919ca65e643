package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/optimise"
	"github.com/strata-nix/strata/stack"
	"github.com/strata-nix/strata/store"
)

type optimiseOptions struct {
	stackSelection
	dryRun  bool
	reflink string
	json    bool
}

func newOptimiseCommand(g *globals) *cobra.Command {
	var o optimiseOptions
	cmd := &cobra.Command{
		Use:   "optimise [STACK...]",
		Short: "Save space by storing equal files once",
		Long: `Make files with equal contents hard links of one another, as nix-store --optimise does.

In a layered store, first the objects that a lower store has meanwhile are dropped from the
upper layer, where everybody sees the lower's from then on; then equal files of what is
left there are made one. The lowers are not touched.

On a file system that can (btrfs, xfs) equal files may share their blocks instead and stay
files of their own: --reflink=always. With auto that is done where a file cannot have more hard
links. What a stack's daemon does by itself, and when it is asked to optimise, says
upper.reflink in strata.toml.

It is done to the store that --store says, or to stacks that are named, or found by their
strata.toml or upper. One that is down is brought up for it, if its strata.toml is given.

It may be interrupted at any time, and run while the store is in use.`,
		Example: "  strata optimise --dry-run\n  strata optimise --store /mnt/base\n  strata optimise dev",
		Args:    anyArgs,
		RunE: runner(func(ctx context.Context, args []string) error {
			o.names = args
			return runOptimise(ctx, g, o)
		}),
	}
	f := cmd.Flags()
	o.addFlags(f)
	f.BoolVar(&o.dryRun, "dry-run", false, "tell what would be done, and change nothing; this reads what a run would read")
	f.StringVar(&o.reflink, "reflink", "", "share blocks instead of making hard links: `WHEN` is auto, always or never (default: auto)")
	f.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func runOptimise(ctx context.Context, g *globals, o optimiseOptions) error {
	r := optimise.Request{DryRun: o.dryRun}
	if o.reflink != "" {
		var err error
		if r.Reflink, err = optimise.ParseReflink(o.reflink); err != nil {
			return &usageError{fmt.Errorf("--reflink: %w", err)}
		}
	}
	if err := o.oneWay(); err != nil {
		return err
	}
	if o.any() {
		return optimiseStacks(ctx, g, o)
	}
	return g.with(ctx, func(st store.Store) error {
		if s, ok := store.As[optimise.Optimiser](st); ok {
			out, err := s.OptimiseWith(ctx, r)
			if err != nil {
				return err
			}
			if o.json {
				return g.out.printJSON(optimised{o.dryRun, out})
			}
			return g.out.println(strings.Join(optimisedLines(out, o.dryRun), "\n"))
		}
		if o.dryRun || o.reflink != "" {
			return &store.UnsupportedError{Op: "optimise --dry-run and --reflink", Store: st.URI(), Why: "a daemon cannot be asked for them; give the store itself with --store"}
		}
		s, err := store.Need[store.Optimiser](st, "optimiseStore")
		if err != nil {
			return err
		}
		return s.Optimise(ctx)
	})
}

// optimised is what is printed as JSON.
type optimised struct {
	DryRun bool `json:"dryRun"`
	optimise.Outcome
}

// optimiseStacks saves space in the uppers of stacks.
func optimiseStacks(ctx context.Context, g *globals, o optimiseOptions) error {
	how := stack.OptimiseOptions{DryRun: o.dryRun, Reflink: o.reflink}
	runs, err := o.runs()
	if o.file != "" && isNotUp(err) {
		return broughtUp(ctx, g, o.file, func(s *stack.Stack) error {
			done, err := s.Optimise(ctx, how)
			if err != nil {
				return err
			}
			return printOptimisedStacks(g.out, []*stack.OptimiseResult{done}, o.json)
		})
	}
	results := make([]*stack.OptimiseResult, 0, len(runs))
	for _, r := range runs {
		done, askErr := r.Optimise(ctx, how)
		if askErr != nil {
			err = errors.Join(err, notUp(askErr))
			continue
		}
		results = append(results, done)
	}
	return errors.Join(printOptimisedStacks(g.out, results, o.json), err)
}

func printOptimisedStacks(out *output, results []*stack.OptimiseResult, json bool) error {
	if json {
		return out.printJSON(results)
	}
	for _, r := range results {
		for _, line := range optimisedLines(r.Outcome, r.DryRun) {
			if err := out.println(r.Stack + ": " + line); err != nil {
				return err
			}
		}
	}
	return nil
}

// optimisedLines tell what was done, or would be.
func optimisedLines(r optimise.Outcome, dryRun bool) (lines []string) {
	would := func(did, would string) string {
		if dryRun {
			return would
		}
		return did
	}
	if r.Dropped+r.InUse > 0 {
		line := fmt.Sprintf("%s %s that a lower store has, %s", plural(int(r.Dropped), "object"), would("dropped", "would be dropped"), size(r.DroppedBytes)) //nolint:gosec // a count
		if r.InUse > 0 {
			line += fmt.Sprintf("; %d are in use", r.InUse)
		}
		lines = append(lines, line)
	}
	if r.Shared > 0 {
		lines = append(lines, fmt.Sprintf("%s %s blocks with others", plural(int(r.Shared), "file"), would("share", "would share"))) //nolint:gosec // likewise
	}
	return append(lines, fmt.Sprintf("%s %s, %s freed", plural(int(r.Files), "file"), would("linked", "would be linked"), size(r.Bytes))) //nolint:gosec // likewise
}
