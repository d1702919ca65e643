package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/nar"
)

func newRestoreCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "restore PATH",
		Short: "Unpack a Nix archive (NAR) from standard input",
		Long: `Read a NAR from standard input and unpack it to PATH, which must not exist. It is
a file, a symlink or a directory, as the archive has it, and appears when it is
complete. No store is used.`,
		Example: "  strata dump ./src | strata restore ./copy",
		Args:    exactlyOne,
		RunE:    runner(func(ctx context.Context, args []string) error { return runRestore(ctx, g, args[0]) }),
	}
}

func runRestore(ctx context.Context, g *globals, path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("restoring '%s': %w", path, err)
		}
	}()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fs.ErrExist)
	}
	temp, err := os.MkdirTemp(filepath.Dir(path), ".strata-restore-")
	if err != nil {
		return err
	}
	defer func() {
		_, rerr := nar.RemoveTree(context.WithoutCancel(ctx), temp)
		err = errors.Join(err, rerr)
	}()
	in := g.input(ctx)
	tree := filepath.Join(temp, "tree")
	if _, err := nar.Restore(ctx, in, tree, nar.RestoreOptions{KeepMetadata: true}); err != nil {
		return err
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.Join(errors.New("something follows the archive"), err)
	}
	return unix.Renameat2(unix.AT_FDCWD, tree, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
}
