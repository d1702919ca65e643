package fileindex

import (
	"iter"
	"sort"
)

// ordered gives the nodes that have contents, in the order of the NAR.
func (c *Contents) ordered() []uint32 {
	c.orderOnce.Do(func() {
		for n := range c.tree.Len() {
			if first, end := c.Chunks(n); first < end {
				c.order = append(c.order, n)
			}
		}
		sort.Slice(c.order, func(i, j int) bool { return c.offsets[c.order[i]] < c.offsets[c.order[j]] })
	})
	return c.order
}

// Within gives the chunks that lie in a part of the NAR as a whole, in the order of the NAR.
func (c *Contents) Within(from, to int64) iter.Seq2[int, Chunk] {
	return func(yield func(int, Chunk) bool) {
		nodes := c.ordered()
		// The first file that ends behind from.
		i := sort.Search(len(nodes), func(i int) bool { return c.offsets[nodes[i]]+c.tree.Node(nodes[i]).Size > from })
		for ; i < len(nodes) && c.offsets[nodes[i]] < to; i++ {
			first, end := c.Chunks(nodes[i])
			begin := c.offsets[nodes[i]]
			if begin < from {
				first += int((from - begin + ChunkSize - 1) / ChunkSize)
			}
			for k := first; k < end; k++ {
				if chunk := c.chunkOf(nodes[i], k); chunk.Nar+chunk.Size > to || !yield(k, chunk) {
					return
				}
			}
		}
	}
}

// Before gives the chunks that end at a place of the NAR or before it, the last one first.
func (c *Contents) Before(to int64) iter.Seq2[int, Chunk] {
	return func(yield func(int, Chunk) bool) {
		nodes := c.ordered()
		// Those that begin before to.
		i := sort.Search(len(nodes), func(i int) bool { return c.offsets[nodes[i]] >= to })
		for i--; i >= 0; i-- {
			first, end := c.Chunks(nodes[i])
			end = min(end, first+int((to-c.offsets[nodes[i]]+ChunkSize-1)/ChunkSize))
			for k := end - 1; k >= first; k-- {
				if chunk := c.chunkOf(nodes[i], k); chunk.Nar+chunk.Size <= to && !yield(k, chunk) {
					return
				}
			}
		}
	}
}
