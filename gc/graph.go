package gc

import "github.com/strata-nix/strata/storepath"

// Graph is the valid paths of a store with what keeps what, numbered from 0.
type Graph interface {
	Len() int
	Path(i int) storepath.Path
	// References of i. The slice belongs to the graph.
	References(i int) []int32
	// Find gives the number of a path, -1 if it is not there.
	Find(p storepath.Path) int
}

// Keeps adds edges to a graph: what else is alive if a path is, such as the
// outputs of a derivation (keep-outputs) or the deriver of an output
// (keep-derivations). nil adds none.
type Keeps func(i int) []int32

// bits is a set of node numbers.
type bits []uint64

func newBits(n int) bits          { return make(bits, (n+63)/64) }
func (b bits) has(i int) bool     { return b[i/64]&(1<<(i%64)) != 0 }
func (b bits) set(i int)          { b[i/64] |= 1 << (i % 64) }
func (b bits) add(i int) (n bool) { n = !b.has(i); b.set(i); return n }

// mark makes everything alive that can be reached from i.
func mark(g Graph, keeps Keeps, alive bits, i int) {
	if !alive.add(i) {
		return
	}
	todo := []int32{int32(i)}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, r := range g.References(int(n)) {
			if alive.add(int(r)) {
				todo = append(todo, r)
			}
		}
		if keeps == nil {
			continue
		}
		for _, r := range keeps(int(n)) {
			if alive.add(int(r)) {
				todo = append(todo, r)
			}
		}
	}
}

// referrersFirst orders the nodes for which want holds so that each comes before
// what it refers to.
func referrersFirst(g Graph, want func(i int) bool) []int32 {
	seen := newBits(g.Len())
	var post []int32
	type frame struct {
		node int32
		next int
	}
	for i := range g.Len() {
		if !want(i) || !seen.add(i) {
			continue
		}
		stack := []frame{{node: int32(i)}}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			refs := g.References(int(top.node))
			if top.next == len(refs) {
				post = append(post, top.node)
				stack = stack[:len(stack)-1]
				continue
			}
			r := refs[top.next]
			top.next++
			if want(int(r)) && seen.add(int(r)) {
				stack = append(stack, frame{node: r})
			}
		}
	}
	// In post-order references come first.
	for i, j := 0, len(post)-1; i < j; i, j = i+1, j-1 {
		post[i], post[j] = post[j], post[i]
	}
	return post
}
