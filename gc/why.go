package gc

import (
	"slices"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Why tells for each of targets what keeps it alive: the roots from which it can be
// reached, nearest first, each with a shortest way. With nearest it tells only the
// first. Whatever no root reaches has no reasons.
func Why(g Graph, keeps Keeps, roots store.Roots, targets []storepath.Path, nearest bool) [][]store.Reason {
	w := newWhy(g, keeps, roots)
	out := make([][]store.Reason, len(targets))
	for n, p := range targets {
		i := g.Find(p)
		switch links, rooted := roots[p]; {
		case i >= 0:
			out[n] = w.reasons(i, nearest)
		case rooted:
			out[n] = []store.Reason{{Links: links, Chain: []store.Step{{Path: p}}}}
		}
	}
	return out
}

// why is a graph with its edges turned round, so that one can go from a path to what
// keeps it.
type why struct {
	g     Graph
	keeps Keeps
	roots map[int32]store.Reason // without their ways

	from []uint32 // the edges that lead to i are by[from[i]:from[i+1]]
	by   []int32

	next  []int32 // the step after a node on its way to the target; of nodes that were seen
	seen  bits
	queue []int32
}

func newWhy(g Graph, keeps Keeps, roots store.Roots) *why {
	w := &why{g: g, keeps: keeps, roots: map[int32]store.Reason{}, from: make([]uint32, g.Len()+1), next: make([]int32, g.Len())}
	for p, links := range roots {
		if i := g.Find(p); i >= 0 {
			w.roots[int32(i)] = store.Reason{Links: links} //nolint:gosec // a number of a node
		}
	}
	w.edges(func(_, to int32) { w.from[to+1]++ })
	for i := range g.Len() {
		w.from[i+1] += w.from[i]
	}
	w.by = make([]int32, w.from[g.Len()])
	at := slices.Clone(w.from)
	w.edges(func(from, to int32) {
		w.by[at[to]] = from
		at[to]++
	})
	return w
}

// edges calls f for every edge.
func (w *why) edges(f func(from, to int32)) {
	for i := range w.g.Len() {
		for _, r := range w.g.References(i) {
			f(int32(i), r) //nolint:gosec // a number of a node
		}
		if w.keeps == nil {
			continue
		}
		for _, r := range w.keeps(i) {
			f(int32(i), r) //nolint:gosec // a number of a node
		}
	}
}

// reasons goes from a node to what keeps it, nearest first.
func (w *why) reasons(target int, nearest bool) (out []store.Reason) {
	w.seen = newBits(w.g.Len())
	w.seen.set(target)
	w.next[target] = -1
	w.queue = append(w.queue[:0], int32(target)) //nolint:gosec // a number of a node
	for done := 0; done < len(w.queue); done++ {
		i := w.queue[done]
		if r, ok := w.roots[i]; ok {
			r.Chain = w.chain(i)
			if out = append(out, r); nearest {
				return out
			}
		}
		for _, by := range w.by[w.from[i]:w.from[i+1]] {
			if w.seen.add(int(by)) {
				w.next[by] = i
				w.queue = append(w.queue, by)
			}
		}
	}
	return out
}

// addReferrers adds all nodes that lead to one of those that are in set.
func (w *why) addReferrers(set bits) {
	w.queue = w.queue[:0]
	for i := range w.g.Len() {
		if set.has(i) {
			w.queue = append(w.queue, int32(i)) //nolint:gosec // a number of a node
		}
	}
	for done := 0; done < len(w.queue); done++ {
		i := w.queue[done]
		for _, by := range w.by[w.from[i]:w.from[i+1]] {
			if set.add(int(by)) {
				w.queue = append(w.queue, by)
			}
		}
	}
}

// chain is the way from a node to the target.
func (w *why) chain(i int32) []store.Step {
	steps := []store.Step{{Path: w.g.Path(int(i))}}
	for to := w.next[i]; to >= 0; i, to = to, w.next[to] {
		steps = append(steps, store.Step{Path: w.g.Path(int(to)), Via: w.edge(i, to)})
	}
	return steps
}

// edge says why one node keeps another.
func (w *why) edge(from, to int32) store.Edge {
	switch {
	case slices.Contains(w.g.References(int(from)), to):
		return store.ByReference
	case w.g.Path(int(to)).IsDerivation():
		return store.ByKeepDerivations
	}
	return store.ByKeepOutputs
}
