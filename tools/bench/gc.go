package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/strata-nix/strata/internal/testenv"
)

// gcRows collect garbage in memory.
func gcRows(o options) []row {
	dead := need{kind: needTrees, n: o.scaled(hundredK, 50)}
	some := need{kind: needTrees, n: o.scaled(20_000, 20)}
	empty := need{kind: needEmpty, n: o.scaled(million, 100)}
	const curve = "collecting small objects, by objects"
	return []row{
		{name: "gc/collect-20000", what: fmt.Sprintf("collecting %d dead small objects", some.n), unit: seconds,
			needs: []need{some}, run: collect(some), curve: curve, at: some.n},
		{name: "gc/collect-100000", what: fmt.Sprintf("collecting %d dead small objects", dead.n), unit: seconds, target: 4,
			needs: []need{dead}, run: collect(dead), curve: curve, at: dead.n},
		{name: "gc/print-dead", what: fmt.Sprintf("liveness and dead list of %d objects", empty.n), unit: seconds, target: 5,
			needs: []need{empty}, long: true, run: printDead(empty)},
	}
}

// trees unpacks a store with objects in memory.
func (w *world) trees(ctx context.Context, n need) (string, error) {
	root, err := w.fresh("trees")
	if err != nil {
		return "", err
	}
	if err := os.RemoveAll(root); err != nil {
		return "", err
	}
	if err := copyStore(ctx, w.input(n), root); err != nil {
		return "", err
	}
	return root, unpackTrees(ctx, w.input(n), root)
}

func collect(n need) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, s side) (sample, error) {
		root, err := w.trees(ctx, n)
		if err != nil {
			return sample{}, err
		}
		defer testenv.RemoveAll(root)
		got, err := command{args: s.choose([]string{"nix-store", "--store", root, "--gc"}, []string{"--store", root, "gc"})}.run(ctx, w)
		if err != nil {
			return got, err
		}
		left, err := filepath.Glob(filepath.Join(root, "nix/store/*-tree-*"))
		got.answer = fmt.Sprintf("%d left", len(left))
		return got, err
	}
}

// printDead asks what is dead. A root keeps what the last object refers to.
func printDead(n need) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, s side) (sample, error) {
		root, err := keep(w, "dead "+n.String(), func() (string, func() error, error) {
			root, err := w.trees(ctx, n)
			if err != nil {
				return "", nil, err
			}
			path, err := w.root(n)
			if err == nil {
				roots := filepath.Join(root, "nix/var/nix/gcroots")
				err = firstError(os.MkdirAll(roots, 0o755), os.Symlink(path, filepath.Join(roots, "bench")))
			}
			return root, func() error { return testenv.RemoveAll(root) }, err
		})
		if err != nil {
			return sample{}, err
		}
		return command{
			args: s.choose([]string{"nix-store", "--store", root, "--gc", "--print-dead"},
				[]string{"--store", root, "gc", "--print-dead"}),
			answer: sortedLines,
		}.run(ctx, w)
	}
}
