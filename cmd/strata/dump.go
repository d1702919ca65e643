package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
)

func newDumpCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "dump PATH",
		Short: "Write a Nix archive (NAR) to standard output",
		Long: `Write the NAR of a store object, or of any other file or directory, to standard
output. What lies in the store directory is asked of the store, all else is read
from the file system; './' before a path makes it one of the file system.`,
		Args: exactlyOne,
		RunE: runner(func(ctx context.Context, args []string) error { return runDump(ctx, g, args[0]) }),
	}
}

func runDump(ctx context.Context, g *globals, arg string) error {
	if isTerminal(g.out.to) {
		return &usageError{errors.New("an archive is not for a terminal; redirect the output")}
	}
	dir, err := g.storeDir(g.storeURI)
	if err != nil {
		return err
	}
	p, err := dir.Parse(arg)
	if err != nil {
		return nar.Dump(ctx, g.out, arg)
	}
	return g.with(ctx, func(st store.Store) error {
		src, err := store.Need[store.NarSource](st, "narFromPath")
		if err != nil {
			return err
		}
		if _, err := store.PathInfoOf(ctx, st, p); err != nil {
			return err
		}
		return src.NarFromPath(ctx, p, g.out)
	})
}
