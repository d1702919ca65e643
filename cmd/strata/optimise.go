package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/optimise"
	"github.com/strata-nix/strata/store"
)

type optimiseOptions struct {
	dryRun  bool
	reflink string
	json    bool
}

func newOptimiseCommand(g *globals) *cobra.Command {
	var o optimiseOptions
	cmd := &cobra.Command{
		Use:   "optimise",
		Short: "Save space by storing equal files once",
		Long: `Make files with equal contents hard links of one another, as nix-store --optimise does.

In a layered store, first the objects that a lower store has meanwhile are dropped from the
upper layer, where everybody sees the lower's from then on; then equal files of what is
left there are made one. The lowers are not touched.

On a file system that can (btrfs, xfs) equal files may share their blocks instead and stay
files of their own: --reflink=always. With auto that is done where a file cannot have more hard
links. What a stack's daemon does by itself, and when it is asked to optimise, says
upper.reflink in strata.toml.

It may be interrupted at any time, and run while the store is in use.`,
		Example: "  strata optimise --dry-run\n  strata optimise --store /mnt/base",
		Args:    noArgs,
		RunE:    runner(func(ctx context.Context, _ []string) error { return runOptimise(ctx, g, o) }),
	}
	f := cmd.Flags()
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
	return g.with(ctx, func(st store.Store) error {
		if s, ok := store.As[optimise.Optimiser](st); ok {
			out, err := s.OptimiseWith(ctx, r)
			if err != nil {
				return err
			}
			return printOptimised(g.out, out, o)
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
	DryRun       bool   `json:"dryRun"`
	Dropped      uint64 `json:"dropped"`
	DroppedBytes uint64 `json:"droppedBytes"`
	InUse        uint64 `json:"inUse"`
	Linked       uint64 `json:"linked"`
	Shared       uint64 `json:"shared"`
	Bytes        uint64 `json:"bytes"`
}

func printOptimised(out *output, r optimise.Outcome, o optimiseOptions) error {
	if o.json {
		return out.printJSON(optimised{o.dryRun, r.Dropped, r.DroppedBytes, r.InUse, r.Files, r.Shared, r.Bytes})
	}
	var lines []string
	would := func(did, would string) string {
		if o.dryRun {
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
	lines = append(lines, fmt.Sprintf("%s %s, %s %s", plural(int(r.Files), "file"), would("linked", "would be linked"), size(r.Bytes), would("freed", "freed"))) //nolint:gosec // likewise
	return out.println(strings.Join(lines, "\n"))
}
