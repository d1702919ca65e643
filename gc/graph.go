package gc

import (
	"cmp"
	"slices"

	"github.com/strata-nix/strata/storepath"
)

// Graph is the valid paths of a store with what keeps what, numbered from 0.
type Graph interface {
	Len() int
	Path(i int) storepath.Path
	// References of i. The slice belongs to the graph.
	References(i int) []int32
	// Find gives the number of a path, -1 if it is not there.
	Find(p storepath.Path) int
	// FindBases is Find for names in the store directory, which need not be paths'. It writes to
	// numbers, which is as long, and may be called by several goroutines at once.
	FindBases(names [][]byte, numbers []int32)
	// NarSize of a path in bytes, 0 if it is not known.
	NarSize(i int) uint64
	// Row orders paths as the database has them. Those that lie together there are
	// best deleted together.
	Row(i int) int64
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
// what it refers to, and otherwise by their rows. Nodes in and below a ring, which no Nix makes, come last: only
// together can they be deleted. ring tells where they begin.
func referrersFirst(g Graph, want func(i int) bool) (order []int32, ring int) {
	waiting := make([]int32, g.Len()) // for how many referrers
	count := 0
	for i := range g.Len() {
		if !want(i) {
			continue
		}
		count++
		for _, r := range g.References(i) {
			if int(r) != i && want(int(r)) {
				waiting[r]++
			}
		}
	}
	order = make([]int32, 0, count)
	for i := range g.Len() {
		if want(i) && waiting[i] == 0 {
			order = append(order, int32(i))
		}
	}
	byRow := func(a, b int32) int { return cmp.Compare(g.Row(int(a)), g.Row(int(b))) }
	slices.SortFunc(order, byRow)
	for done := 0; done < len(order); {
		wave := order[done:]
		done = len(order)
		for _, i := range wave {
			for _, r := range g.References(int(i)) {
				if r == i || !want(int(r)) {
					continue
				}
				if waiting[r]--; waiting[r] == 0 {
					order = append(order, r)
				}
			}
		}
		slices.SortFunc(order[done:], byRow)
	}
	ring = len(order)
	for i := range g.Len() {
		if waiting[i] > 0 {
			order = append(order, int32(i))
		}
	}
	return order, ring
}
