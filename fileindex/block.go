package fileindex

import "sort"

// blocks finds where the NAR is cut, from its layout alone.
func (c *Contents) blocks() []int64 {
	c.cutOnce.Do(func() {
		w := cutter{cut: func(off int64) { c.cuts = append(c.cuts, off) }}
		c.walk(0, &w)
	})
	return c.cuts
}

// walk tells a cutter of the files of a node in the order of the NAR.
func (c *Contents) walk(n uint32, w *cutter) {
	if first, end := c.Chunks(n); first < end {
		w.file(c.offsets[n], c.tree.Node(n).Size)
	}
	for e, end := c.tree.Entries(n); e < end; e++ {
		c.walk(e, w)
	}
}

// Block is where the block that has the byte at off begins and ends, in the NAR: what is best fetched with it from
// a NAR that is not compressed. [Scan] cuts at the same offsets.
func (c *Contents) Block(off int64) (from, to int64) {
	cuts := c.blocks()
	i := sort.Search(len(cuts), func(i int) bool { return cuts[i] > off })
	to = int64(c.narSize)
	if i > 0 {
		from = cuts[i-1]
	}
	if i < len(cuts) {
		to = cuts[i]
	}
	return from, to
}
