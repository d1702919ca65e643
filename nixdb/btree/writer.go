package btree

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Writer adds whole trees to a database that has empty ones: pages are written once, full, one after the
// other behind those that there are. It is for one goroutine.
//
// The database is one for others only after Finish.
type Writer struct {
	usable int
	first  []byte // page 1
	count  uint32 // of pages
	put    func(n uint32, page []byte) error
	over   []byte // room for a page of a record that is too long
}

// Offsets in the header of the file.
const (
	offChanges    = 24
	offCount      = 28
	offFormat     = 44
	offVacuum     = 52
	offCountValid = 92
)

// newestFormat is the one in which 0 and 1 take no room.
const newestFormat = 4

// lockOffset is the byte by which SQLite locks files. Its page is never used.
const lockOffset = 1 << 30

// NewWriter begins with a database of whose first page it is given a copy. put writes a page, which it must
// not keep. ErrUnsupported means that SQLite itself has to write to this one.
func NewWriter(page1 []byte, put func(n uint32, page []byte) error) (*Writer, error) {
	f, err := Open(onePage(page1))
	if err != nil {
		return nil, err
	}
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(page1[at:]) }
	if u32(offFormat) != newestFormat || u32(offVacuum) != 0 || u32(offCount) == 0 || u32(offChanges) != u32(offCountValid) {
		return nil, fmt.Errorf("%w: it is of an old format, or vacuumed by itself", ErrUnsupported)
	}
	return &Writer{usable: f.usable, first: append([]byte(nil), page1...), count: u32(offCount), put: put}, nil
}

// onePage is a source of the first page only.
type onePage []byte

func (p onePage) Count() int { return 1 }

func (p onePage) Page(n uint32) ([]byte, error) {
	if n != 1 {
		return nil, fmt.Errorf("%w: page %d", ErrFormat, n)
	}
	return p, nil
}

// Count is how many pages there are.
func (w *Writer) Count() uint32 { return w.count }

// Finish writes the first page.
func (w *Writer) Finish() error {
	binary.BigEndian.PutUint32(w.first[offCount:], w.count)
	return w.put(1, w.first)
}

// number gives the number of a new page.
func (w *Writer) number() (uint32, error) {
	if w.count == 1<<32-2 {
		return 0, errors.New("the database would have too many pages")
	}
	w.count++
	if w.count == uint32(lockOffset/len(w.first))+1 {
		w.count++
	}
	return w.count, nil
}

// overflow writes what does not fit into a row's own page, and gives the first of its pages.
func (w *Writer) overflow(rest []byte) (uint32, error) {
	first, err := w.number()
	for n := first; err == nil; {
		part := rest[:min(len(rest), w.usable-4)]
		rest = rest[len(part):]
		next := uint32(0)
		if len(rest) > 0 {
			if next, err = w.number(); err != nil {
				break
			}
		}
		page := append(binary.BigEndian.AppendUint32(w.over[:0], next), part...)
		page = append(page, make([]byte, len(w.first)-len(page))...)
		w.over = page
		if err = w.put(n, page); next == 0 {
			break
		}
		n = next
	}
	return first, err
}

// Table begins the table whose empty root is a page.
func (w *Writer) Table(root uint32) *TableWriter {
	return &TableWriter{tree: newTreeWriter(w, root, leafTable, interiorTable)}
}

// Index begins the index whose empty root is a page.
func (w *Writer) Index(root uint32) *IndexWriter {
	return &IndexWriter{tree: newTreeWriter(w, root, leafIndex, interiorIndex)}
}

// IsEmpty tells whether a page is the root of a table, or else of an index, in which nothing is.
func IsEmpty(page []byte, table bool) bool {
	want := leafIndex
	if table {
		want = leafTable
	}
	return len(page) > 8 && kind(page[0]) == want && binary.BigEndian.Uint16(page[3:]) == 0
}

// TableWriter writes a table.
type TableWriter struct {
	tree *treeWriter
	last int64
	cell []byte
}

// Row adds a row, whose number must be greater than the last one's.
func (t *TableWriter) Row(id int64, r Record) error {
	w := t.tree.w
	t.cell = appendVarint(appendVarint(t.cell[:0], uint64(len(r))), uint64(id))
	if most := w.usable - 35; len(r) <= most {
		t.cell = append(t.cell, r...)
	} else {
		least := (w.usable-12)*32/255 - 23
		here := least + (len(r)-least)%(w.usable-4)
		if here > most {
			here = least
		}
		page, err := w.overflow(r[here:])
		if err != nil {
			return err
		}
		t.cell = binary.BigEndian.AppendUint32(append(t.cell, r[:here]...), page)
	}
	if !t.tree.leaf.fits(t.cell) {
		// The greatest number of a page stands before the next one in the page above.
		if err := t.tree.next(appendVarint(nil, uint64(t.last))); err != nil {
			return err
		}
	}
	t.tree.leaf.add(t.cell)
	t.last = id
	return nil
}

// Finish writes what is left.
func (t *TableWriter) Finish() error { return t.tree.finish() }

// IndexWriter writes an index.
type IndexWriter struct {
	tree    *treeWriter
	cell    []byte
	between []byte // an entry that will be above the present leaf and the next one; nil: none
}

// Entry adds an entry, which must be greater than the last one. ErrUnsupported means that it is too long.
func (x *IndexWriter) Entry(r Record) error {
	if len(r) > (x.tree.w.usable-12)*64/255-23 {
		return fmt.Errorf("%w: index entry of %d bytes", ErrUnsupported, len(r))
	}
	x.cell = append(appendVarint(x.cell[:0], uint64(len(r))), r...)
	if len(x.between) > 0 {
		if err := x.tree.next(x.between); err != nil {
			return err
		}
		x.between = x.between[:0]
	}
	if !x.tree.leaf.fits(x.cell) {
		x.between = append(x.between, x.cell...)
		return nil
	}
	x.tree.leaf.add(x.cell)
	return nil
}

// Finish writes what is left.
func (x *IndexWriter) Finish() error {
	if len(x.between) > 0 {
		// Nothing came behind it, and it needs a page on that side.
		last := append([]byte(nil), x.tree.leaf.removeLast()...)
		if err := x.tree.next(last); err != nil {
			return err
		}
		x.tree.leaf.add(x.between)
	}
	return x.tree.finish()
}
