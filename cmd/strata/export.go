package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/export"
	"github.com/strata-nix/strata/store"
)

type exportOptions struct{ closure bool }

func newExportCommand(g *globals) *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export PATH...",
		Short: "Write store objects to standard output, for import",
		Long: `Write store objects, with what is known about them, to standard output in the
format of 'nix-store --export', what is referred to first.`,
		Example: "  strata export --closure /nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-hello > hello.closure",
		Args:    someArgs,
		RunE:    runner(func(ctx context.Context, args []string) error { return runExport(ctx, g, o, args) }),
	}
	cmd.Flags().BoolVarP(&o.closure, "closure", "r", false, "also write what the paths refer to, directly or not")
	return cmd
}

func runExport(ctx context.Context, g *globals, o exportOptions, args []string) error {
	if isTerminal(g.out.to) {
		return &usageError{errors.New("an export is not for a terminal; redirect the output")}
	}
	paths, err := g.objects(args)
	if err != nil {
		return err
	}
	return g.with(ctx, func(st store.Store) error {
		if o.closure {
			infos, err := closureOf(ctx, st, paths)
			if err != nil {
				return err
			}
			paths = pathsOf(infos)
		}
		return export.Write(ctx, g.out, st, paths)
	})
}

type importOptions struct{ noCheckSigs bool }

func newImportCommand(g *globals) *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Add the store objects of an export",
		Long: `Add the store objects of an export on standard input, and print their paths. There
are no signatures in an export: only a store that trusts us takes what is not
content-addressed.`,
		Example: "  ssh host nix-store --export /nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-hello | strata import",
		Args:    noArgs,
		RunE:    runner(func(ctx context.Context, _ []string) error { return runImport(ctx, g, o) }),
	}
	cmd.Flags().BoolVar(&o.noCheckSigs, "no-check-sigs", true, "take what no trusted key has signed, if we may")
	return cmd
}

func runImport(ctx context.Context, g *globals, o importOptions) error {
	spool, err := os.CreateTemp("", "strata-import-")
	if err != nil {
		return fmt.Errorf("spooling an import: %w", err)
	}
	defer spool.Close()
	if err := os.Remove(spool.Name()); err != nil { // it lives as long as it is open
		return fmt.Errorf("spooling an import: %w", err)
	}
	return g.with(ctx, func(st store.Store) error {
		ao := store.AddOptions{NoCheckSigs: o.noCheckSigs}
		if r, ok := store.As[store.TempRooter](st); ok {
			ao.Roots = r.NewTempRoots()
			defer ao.Roots.Close()
		}
		src := &importedObjects{
			ObjectSource: export.NewSource(g.input(ctx), st.Dir(), spool),
			print:        func(info *store.PathInfo) error { return g.out.println(st.Dir().Print(info.Path)) },
		}
		return store.AddMultiple(ctx, st, src, ao)
	})
}

// importedObjects prints an object when the next one is asked for: by then it has
// been taken, though perhaps not yet registered.
type importedObjects struct {
	store.ObjectSource
	print func(*store.PathInfo) error
	last  *store.PathInfo
}

// Next is that of store.ObjectSource.
func (o *importedObjects) Next() (*store.PathInfo, io.Reader, error) {
	if o.last != nil {
		if err := o.print(o.last); err != nil {
			return nil, nil, err
		}
	}
	info, nar, err := o.ObjectSource.Next()
	o.last = info
	return info, nar, err
}
