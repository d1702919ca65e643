package main

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/strata-nix/strata/internal/testenv"
)

// optimiseRows make equal files of small objects one file.
func optimiseRows(o options) []row {
	n := need{kind: needTrees, n: o.scaled(20_000, 20)}
	return []row{{
		name: "optimise/small", what: fmt.Sprintf("optimising %d small objects", n.n), unit: seconds, needs: []need{n},
		run: func(ctx context.Context, w *world, s side) (sample, error) {
			root, err := w.trees(ctx, n)
			if err != nil {
				return sample{}, err
			}
			defer testenv.RemoveAll(root)
			got, err := command{args: s.choose([]string{"nix-store", "--store", root, "--optimise"}, []string{"--store", root, "optimise"})}.run(ctx, w)
			if err != nil {
				return got, err
			}
			files, err := differentFiles(filepath.Join(root, "nix/store"))
			got.answer = fmt.Sprintf("%d files", files)
			return got, err
		},
	}}
}

// differentFiles counts the files of a store directory that are not links of one another.
func differentFiles(dir string) (int, error) {
	inodes := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.Name() == ".links":
			return fs.SkipDir // stock Nix has a link of each file there, strata of those with equals
		case e.IsDir():
			return nil
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			inodes[st.Ino] = true
		}
		return nil
	})
	return len(inodes), err
}
