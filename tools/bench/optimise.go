package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

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
			links, err := os.ReadDir(filepath.Join(root, "nix/store/.links"))
			got.answer = fmt.Sprintf("%d files", len(links))
			return got, err
		},
	}}
}
