package btree

import (
	"encoding/binary"
	"fmt"
)

// Row gives the row of a table with a number, and whether there is one.
func (t Tree) Row(id int64) (Record, bool, error) {
	at := t.root
	for range maxDepth {
		d, err := t.f.node(at, true)
		if err != nil {
			return nil, false, err
		}
		i, found, err := d.search(id)
		if err != nil {
			return nil, false, err
		}
		if !d.kind.interior() {
			if !found {
				return nil, false, nil
			}
			r, _, err := t.f.row(&d, i)
			return r, err == nil, err
		}
		if at, err = d.child(i); err != nil {
			return nil, false, err
		}
	}
	return nil, false, errCircle
}

// search finds the first cell whose row number is not below id, and whether it is
// id.
func (d *node) search(id int64) (at int, found bool, err error) {
	lo, hi := 0, d.cells
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		have, err := d.rowID(mid)
		if err != nil {
			return 0, false, err
		}
		switch {
		case have == id:
			return mid, true, nil
		case have < id:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return lo, false, nil
}

// row gives the record of a cell of a leaf of a table, with what of it is on
// other pages, and tells whether there was anything.
func (f *File) row(d *node, i int) (r Record, more bool, err error) {
	c, err := d.cell(i)
	if err != nil {
		return nil, false, err
	}
	size, n := varint(c)
	if n == 0 {
		return nil, false, d.broken(i)
	}
	c = c[n:]
	_, n = varint(c) // the row number
	if n == 0 {
		return nil, false, d.broken(i)
	}
	c = c[n:]
	local := f.local(size)
	if local > len(c) {
		return nil, false, d.broken(i)
	}
	if uint64(local) == size {
		return Record(c[:local]), false, nil
	}
	if local+4 > len(c) {
		return nil, false, d.broken(i)
	}
	r, err = f.overflow(append([]byte(nil), c[:local]...), size, binary.BigEndian.Uint32(c[local:]))
	return r, true, err
}

// local is how much of a row is on the page of its cell.
func (f *File) local(size uint64) int {
	most := uint64(f.usable - 35)
	if size <= most {
		return int(size)
	}
	least := uint64((f.usable-12)*32/255 - 23)
	if k := least + (size-least)%uint64(f.usable-4); k <= most {
		return int(k)
	}
	return int(least)
}

// overflow adds the rest of a row, in a chain of pages.
func (f *File) overflow(b []byte, size uint64, next uint32) (Record, error) {
	if size > maxRow {
		return nil, fmt.Errorf("%w: a row of %d bytes", ErrUnsupported, size)
	}
	for uint64(len(b)) < size {
		p, err := f.src.Page(next)
		if err != nil {
			return nil, err
		}
		if next == 0 || len(p) < f.usable {
			return nil, fmt.Errorf("%w: a chain of pages ends before its row does", ErrFormat)
		}
		next = binary.BigEndian.Uint32(p)
		rest := p[4:f.usable]
		b = append(b, rest[:min(uint64(len(rest)), size-uint64(len(b)))]...)
	}
	return Record(b), nil
}

// maxRow is how long a row may be, in bytes: far above what is in a Nix database. A
// chain of pages may be a circle.
const maxRow = 16 << 20

// Rows visits the rows of a table with numbers above after, in order, until visit
// returns false. The record is good only during the visit, which must not ask
// for pages.
func (t Tree) Rows(after int64, visit func(id int64, r Record) (more bool, err error)) error {
	_, err := t.f.rows(t.root, after, &walk{left: t.f.src.Count()}, visit)
	return err
}

// rows does a part of Rows, and tells whether to go on.
func (f *File) rows(page uint32, after int64, w *walk, visit func(int64, Record) (bool, error)) (more bool, err error) {
	if !w.enter() {
		return false, errCircle
	}
	defer w.leave()
	d, err := f.node(page, true)
	if err != nil {
		return false, err
	}
	i, found, err := d.search(after)
	if err != nil {
		return false, err
	}
	if !d.kind.interior() {
		if found {
			i++
		}
		return f.leafRows(&d, i, visit)
	}
	for ; i <= d.cells; i++ {
		child, err := d.child(i)
		if err != nil {
			return false, err
		}
		if more, err := f.rows(child, after, w, visit); err != nil || !more {
			return more, err
		}
		// Others have used its memory.
		if d, err = f.node(page, true); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (f *File) leafRows(d *node, i int, visit func(int64, Record) (bool, error)) (more bool, err error) {
	page := d.number
	for ; i < d.cells; i++ {
		id, err := d.rowID(i)
		if err != nil {
			return false, err
		}
		r, others, err := f.row(d, i)
		if err != nil {
			return false, err
		}
		if more, err := visit(id, r); err != nil || !more {
			return more, err
		}
		if others { // they have used the page's memory
			if *d, err = f.node(page, true); err != nil {
				return false, err
			}
		}
	}
	return true, nil
}
