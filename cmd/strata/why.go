package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

type whyOptions struct {
	all  bool
	json bool
}

func newWhyCommand(g *globals) *cobra.Command {
	var o whyOptions
	cmd := &cobra.Command{
		Use:   "why PATH DEPENDENCY",
		Short: "Print why one path depends on another",
		Long: `Print a shortest chain of references that leads from PATH to DEPENDENCY. With
--all, every reference on any way from one to the other, as a tree.`,
		Args: exactlyTwo,
		RunE: runner(func(ctx context.Context, args []string) error { return runWhy(ctx, g, o, args) }),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "print all ways")
	f.BoolVar(&o.json, "json", false, "print the chain as a JSON list, with --all the references as an object of lists")
	return cmd
}

func runWhy(ctx context.Context, g *globals, o whyOptions, args []string) error {
	paths, err := g.objects(args)
	if err != nil {
		return err
	}
	return g.with(ctx, func(st store.Store) error {
		from, to := paths[0], paths[1]
		closure, err := closureOf(ctx, st, []storepath.Path{from})
		if err != nil {
			return err
		}
		graph := leadingTo(closure, to)
		chain := graph.chain(from)
		if chain == nil {
			return &absentError{fmt.Sprintf("'%s' does not depend on '%s'", st.Dir().Print(from), st.Dir().Print(to))}
		}
		switch {
		case o.all && o.json:
			return g.out.printJSON(graph.edges(st.Dir()))
		case o.all:
			t := newTree(g.out, st.Dir(), graph.infos())
			return t.print(from, "", "")
		case o.json:
			return g.out.printJSON(st.Dir().PrintAll(chain))
		}
		return printChain(g.out, st.Dir(), chain)
	})
}

func printChain(out *output, dir storepath.Dir, chain []storepath.Path) error {
	indent := ""
	for i, p := range chain {
		line := dir.Print(p)
		if i > 0 {
			line = indent + treeLast + line
			indent += treeNone
		}
		if err := out.println(line); err != nil {
			return err
		}
	}
	return nil
}

// ways are the paths of a closure that depend on one of them, with the
// references that matter for that.
type ways struct {
	to      storepath.Path
	closure []*store.PathInfo // of those paths alone, references first
	steps   map[storepath.Path]int
}

// leadingTo takes from a closure what depends on to.
func leadingTo(closure []*store.PathInfo, to storepath.Path) *ways {
	w := &ways{to: to, steps: map[storepath.Path]int{}}
	for _, info := range closure { // references first: one pass is enough
		if info.Path == to {
			w.steps[to] = 0
			w.closure = append(w.closure, &store.PathInfo{Path: to})
			continue
		}
		kept := &store.PathInfo{Path: info.Path}
		steps := -1
		for _, r := range info.References {
			n, leads := w.steps[r]
			if !leads || r == info.Path {
				continue
			}
			kept.References = append(kept.References, r)
			if steps < 0 || n+1 < steps {
				steps = n + 1
			}
		}
		if steps >= 0 {
			w.steps[info.Path] = steps
			w.closure = append(w.closure, kept)
		}
	}
	return w
}

// chain is a shortest way, nil if there is none.
func (w *ways) chain(from storepath.Path) []storepath.Path {
	if _, leads := w.steps[from]; !leads {
		return nil
	}
	refs := map[storepath.Path][]storepath.Path{}
	for _, info := range w.closure {
		refs[info.Path] = info.References
	}
	chain := []storepath.Path{from}
	for at := from; at != w.to; {
		for _, r := range refs[at] {
			if w.steps[r] == w.steps[at]-1 {
				at = r
				break
			}
		}
		chain = append(chain, at)
	}
	return chain
}

func (w *ways) infos() []*store.PathInfo { return w.closure }

func (w *ways) edges(dir storepath.Dir) map[string][]string {
	edges := map[string][]string{}
	for _, info := range w.closure {
		edges[dir.Print(info.Path)] = dir.PrintAll(info.References)
	}
	return edges
}
