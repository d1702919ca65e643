package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/nar"
)

func newRestoreCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "restore PATH",
		Short: "Unpack a Nix archive (NAR) from standard input",
		Long: `Read a NAR from standard input and unpack it to PATH, which must not exist. It is
a file, a symlink or a directory, as the archive has it. No store is used. After an
error, what was unpacked until then remains.`,
		Example: "  strata dump ./src | strata restore ./copy",
		Args:    exactlyOne,
		RunE:    runner(func(ctx context.Context, args []string) error { return runRestore(ctx, g, args[0]) }),
	}
}

func runRestore(ctx context.Context, g *globals, path string) error {
	in := bufio.NewReaderSize(g.stdin, 256<<10)
	if _, err := nar.Restore(ctx, in, path, nar.RestoreOptions{KeepMetadata: true}); err != nil {
		return fmt.Errorf("restoring '%s': %w", path, err)
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.Join(fmt.Errorf("restoring '%s': something follows the archive", path), err)
	}
	return nil
}
