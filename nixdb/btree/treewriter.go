package btree

import "encoding/binary"

// treeWriter writes a tree from its leaves up. Of all pages below the present level it keeps their numbers
// and what divides them.
type treeWriter struct {
	w        *Writer
	root     uint32
	interior kind
	leaf     pageWriter
	children []childPage
	dividers []byte // of the children, one after the other
	spare    []byte // room for those of the next level
}

// childPage is a page of the level below, and what comes between it and the next one.
type childPage struct {
	page     uint32
	from, to uint32 // in dividers
}

func newTreeWriter(w *Writer, root uint32, leaf, interior kind) *treeWriter {
	t := &treeWriter{w: w, root: root, interior: interior}
	t.leaf = pageWriter{page: make([]byte, len(w.first)), usable: w.usable}
	t.leaf.begin(leaf)
	return t
}

// next ends a leaf, after which a divider comes, and begins another.
func (t *treeWriter) next(divider []byte) error {
	n, err := t.w.number()
	if err != nil {
		return err
	}
	if err := t.w.put(n, t.leaf.finish(0)); err != nil {
		return err
	}
	t.child(n, divider)
	t.leaf.begin(kind(t.leaf.page[0]))
	return nil
}

func (t *treeWriter) child(n uint32, divider []byte) {
	from := uint32(len(t.dividers))
	t.dividers = append(t.dividers, divider...)
	t.children = append(t.children, childPage{n, from, uint32(len(t.dividers))})
}

// finish writes the last leaf, and all levels above. What is alone on its level is the root.
func (t *treeWriter) finish() error {
	if len(t.children) == 0 {
		return t.w.put(t.root, t.leaf.finish(0))
	}
	if err := t.next(nil); err != nil {
		return err
	}
	for level := t.children; ; level = t.children {
		ends := t.share(level)
		below := t.dividers
		t.children, t.dividers, t.spare = nil, t.spare[:0], below
		start := 0
		for _, end := range ends {
			n, err := t.root, error(nil)
			if len(ends) > 1 {
				n, err = t.w.number()
			}
			if err == nil {
				err = t.w.put(n, t.node(level[start:end+1], below))
			}
			if err != nil {
				return err
			}
			t.child(n, below[level[end].from:level[end].to])
			start = end + 1
		}
		if len(ends) == 1 {
			return nil
		}
	}
}

// share tells which is the last child of each page that is above them. Each of these has two at least.
func (t *treeWriter) share(level []childPage) (ends []int) {
	for start := 0; start < len(level); start = ends[len(ends)-1] + 1 {
		end, room := start, t.w.usable-interiorHeader
		for end < len(level)-1 {
			room -= 2 + 4 + int(level[end].to-level[end].from)
			if room < 0 {
				break
			}
			end++
		}
		if end == len(level)-2 {
			end--
		}
		ends = append(ends, end)
	}
	return ends
}

// node makes the page above some children.
func (t *treeWriter) node(children []childPage, dividers []byte) []byte {
	p := &t.leaf // its leaf is written
	p.begin(t.interior)
	last := len(children) - 1
	for _, c := range children[:last] {
		cell := binary.BigEndian.AppendUint32(p.scratch[:0], c.page)
		p.scratch = append(cell, dividers[c.from:c.to]...)
		p.add(p.scratch)
	}
	return p.finish(children[last].page)
}

const (
	leafHeader     = 8
	interiorHeader = 12
)

// pageWriter fills a page: its cells from its end on, and where they are from its beginning on.
type pageWriter struct {
	page    []byte
	usable  int
	cells   int
	ptrs    int // where the next cell's offset goes
	content int // where the last cell begins
	scratch []byte
}

func (p *pageWriter) begin(k kind) {
	clear(p.page)
	p.page[0] = byte(k)
	p.cells, p.ptrs, p.content = 0, leafHeader, p.usable
	if k.interior() {
		p.ptrs = interiorHeader
	}
}

// leastCell is what a cell takes at least.
const leastCell = 4

func (p *pageWriter) fits(cell []byte) bool {
	return p.ptrs+2+max(len(cell), leastCell) <= p.content
}

func (p *pageWriter) add(cell []byte) {
	p.content -= max(len(cell), leastCell)
	copy(p.page[p.content:], cell)
	binary.BigEndian.PutUint16(p.page[p.ptrs:], uint16(p.content))
	p.ptrs += 2
	p.cells++
}

// removeLast takes the cell out that was added last. It is good until the next one.
func (p *pageWriter) removeLast() []byte {
	end := p.usable
	if p.cells > 1 {
		end = int(binary.BigEndian.Uint16(p.page[p.ptrs-4:]))
	}
	p.scratch = append(p.scratch[:0], p.page[p.content:end]...)
	clear(p.page[p.content:end])
	p.cells--
	p.ptrs -= 2
	binary.BigEndian.PutUint16(p.page[p.ptrs:], 0)
	p.content = end
	return p.scratch
}

// finish gives the page. right is the last child of one that is no leaf.
func (p *pageWriter) finish(right uint32) []byte {
	binary.BigEndian.PutUint16(p.page[3:], uint16(p.cells))
	binary.BigEndian.PutUint16(p.page[5:], uint16(p.content)) // 65536 is 0
	if kind(p.page[0]).interior() {
		binary.BigEndian.PutUint32(p.page[8:], right)
	}
	return p.page
}
