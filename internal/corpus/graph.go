package corpus

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/strata-nix/strata/internal/debian"
	"github.com/strata-nix/strata/storepath"
)

// graph is the dependency graph of one suite's packages, without cycles, as
// indices into pkgs.
type graph struct {
	pkgs    []*debian.Package // sorted by name
	refs    [][]int           // the direct dependencies, sorted
	order   []int             // every package after its dependencies
	dropped int               // edges that would have closed a cycle
}

// newGraph resolves dependencies within pkgs, which are sorted by name. A
// dependency becomes its first alternative that exists, by name or else by the
// first package that provides it; one without any is dropped. So is an edge
// that closes a cycle: one that a depth-first walk in name order finds leading
// to a package it has not left yet.
func newGraph(pkgs []*debian.Package) *graph {
	g := &graph{pkgs: pkgs, refs: make([][]int, len(pkgs))}
	wanted := wantedEdges(pkgs)

	const (
		unseen = iota
		entered
		left
	)
	state := make([]uint8, len(pkgs))
	type frame struct{ node, next int }
	for root := range pkgs {
		if state[root] != unseen {
			continue
		}
		state[root] = entered
		for stack := []frame{{node: root}}; len(stack) > 0; {
			f := &stack[len(stack)-1]
			if f.next == len(wanted[f.node]) {
				state[f.node] = left
				g.order = append(g.order, f.node)
				stack = stack[:len(stack)-1]
				continue
			}
			dep := wanted[f.node][f.next]
			f.next++
			if state[dep] == entered {
				g.dropped++
				continue
			}
			g.refs[f.node] = append(g.refs[f.node], dep)
			if state[dep] == unseen {
				state[dep] = entered
				stack = append(stack, frame{node: dep})
			}
		}
	}
	return g
}

// wantedEdges chooses for each dependency the package that satisfies it.
func wantedEdges(pkgs []*debian.Package) [][]int {
	byName := make(map[string]int, len(pkgs))
	provider := make(map[string]int)
	for i, p := range pkgs {
		byName[p.Name] = i
		for _, v := range p.Provides {
			if _, taken := provider[v]; !taken {
				provider[v] = i
			}
		}
	}
	find := func(alternatives []string) (int, bool) {
		for _, name := range alternatives {
			if i, ok := byName[name]; ok {
				return i, true
			}
			if i, ok := provider[name]; ok {
				return i, true
			}
		}
		return 0, false
	}
	wanted := make([][]int, len(pkgs))
	for i, p := range pkgs {
		for _, alternatives := range p.Depends {
			if dep, ok := find(alternatives); ok && dep != i {
				wanted[i] = append(wanted[i], dep)
			}
		}
		slices.Sort(wanted[i])
		wanted[i] = slices.Compact(wanted[i])
	}
	return wanted
}

// references of package i: those of the graph and, for a compiled package, as
// is usual, itself.
func (g *graph) references(i int, paths []storepath.Path) []storepath.Path {
	refs := make([]storepath.Path, 0, len(g.refs[i])+1)
	for _, dep := range g.refs[i] {
		refs = append(refs, paths[dep])
	}
	if g.pkgs[i].Arch != "all" {
		refs = append(refs, paths[i])
	}
	return storepath.SortUnique(refs)
}

// writeClosures names the packages with the n largest closures, and the one
// with the median closure, for benchmarks to use.
func (g *graph) writeClosures(w io.Writer, suite string, paths []storepath.Path, n int) {
	type row struct{ node, size int }
	var (
		rows  []row
		stack []int
		mark  = make([]int, len(g.pkgs)) // the last root, plus one, that reached it
	)
	for _, root := range g.order {
		mark[root] = root + 1
		size := 0
		for stack = append(stack[:0], root); len(stack) > 0; size++ {
			node := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			for _, dep := range g.refs[node] {
				if mark[dep] != root+1 {
					mark[dep] = root + 1
					stack = append(stack, dep)
				}
			}
		}
		rows = append(rows, row{root, size})
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.node, b.node))
	})
	write := func(what string, r row) {
		fmt.Fprintf(w, "%s %s %d %s\n", what, suite, r.size, storepath.DefaultDir.Print(paths[r.node]))
	}
	for _, r := range rows[:min(n, len(rows))] {
		write("closure", r)
	}
	if len(rows) > 0 {
		write("median-closure", rows[len(rows)/2])
	}
}
