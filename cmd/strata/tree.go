package main

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Pieces of a drawn tree.
const (
	treeNext = "├───"
	treeLast = "└───"
	treeLine = "│   "
	treeNone = "    "
)

func newTreeCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "tree PATH...",
		Short: "Print references as a tree",
		Long: `Print store paths and what they refer to, directly or not, as a tree. A path whose
references were printed before is marked with [...].`,
		Args: someArgs,
		RunE: runner(func(ctx context.Context, args []string) error { return runTree(ctx, g, args) }),
	}
}

func runTree(ctx context.Context, g *globals, args []string) error {
	paths, err := g.objects(args)
	if err != nil {
		return err
	}
	return g.with(ctx, func(st store.Store) error {
		infos, err := closureOf(ctx, st, paths)
		if err != nil {
			return err
		}
		t := newTree(g.out, st.Dir(), infos)
		for _, p := range paths {
			if err := t.print(p, "", ""); err != nil {
				return err
			}
		}
		return nil
	})
}

// tree prints references. What an object refers to comes in reverse order of
// the closure, those that refer to others of them first, which keeps the tree
// flat: everything hangs as low as it can.
type tree struct {
	out  *output
	dir  storepath.Dir
	info map[storepath.Path]*store.PathInfo
	rank map[storepath.Path]int // in the closure
	done storepath.Set
}

func newTree(out *output, dir storepath.Dir, closure []*store.PathInfo) *tree {
	t := &tree{out: out, dir: dir, info: map[storepath.Path]*store.PathInfo{}, rank: map[storepath.Path]int{}, done: storepath.Set{}}
	for i, info := range closure {
		t.info[info.Path] = info
		t.rank[info.Path] = i
	}
	return t
}

func (t *tree) print(p storepath.Path, first, rest string) error {
	line := first + t.dir.Print(p)
	if !t.done.Add(p) {
		return t.out.println(line + " [...]")
	}
	if err := t.out.println(line); err != nil {
		return err
	}
	refs := slices.Clone(t.info[p].References)
	slices.SortFunc(refs, func(a, b storepath.Path) int { return t.rank[b] - t.rank[a] })
	for i, r := range refs {
		branch, line := treeNext, treeLine
		if i == len(refs)-1 {
			branch, line = treeLast, treeNone
		}
		if err := t.print(r, rest+branch, rest+line); err != nil {
			return err
		}
	}
	return nil
}
