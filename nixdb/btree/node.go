package btree

import (
	"encoding/binary"
	"fmt"
)

// kind is what a page of a tree is.
type kind byte

const (
	interiorIndex kind = 2
	interiorTable kind = 5
	leafIndex     kind = 10
	leafTable     kind = 13
)

func (k kind) interior() bool { return k == interiorIndex || k == interiorTable }
func (k kind) table() bool    { return k == interiorTable || k == leafTable }

// node is a page of a tree, good until the next page is asked for.
type node struct {
	page   []byte // the usable part
	number uint32
	kind   kind
	cells  int
	ptrs   int // where the cells' offsets begin
	right  uint32
}

// node reads a page of a table or of an index.
func (f *File) node(n uint32, table bool) (node, error) {
	p, err := f.src.Page(n)
	if err != nil {
		return node{}, err
	}
	if len(p) < f.usable {
		return node{}, fmt.Errorf("%w: page %d has %d bytes", ErrFormat, n, len(p))
	}
	at := 0
	if n == 1 {
		at = headerSize
	}
	d := node{page: p[:f.usable], number: n, kind: kind(p[at]), cells: int(binary.BigEndian.Uint16(p[at+3:])), ptrs: at + 8}
	switch d.kind {
	case interiorIndex, interiorTable:
		d.right = binary.BigEndian.Uint32(p[at+8:])
		d.ptrs += 4
	case leafIndex, leafTable:
	default:
		return d, fmt.Errorf("%w: page %d is of kind %d", ErrFormat, n, d.kind)
	}
	if d.kind.table() != table || d.ptrs+2*d.cells > len(d.page) {
		return d, fmt.Errorf("%w: page %d of kind %d has %d cells", ErrFormat, n, d.kind, d.cells)
	}
	return d, nil
}

// cell gives the bytes from the beginning of a cell on.
func (d *node) cell(i int) ([]byte, error) {
	off := int(binary.BigEndian.Uint16(d.page[d.ptrs+2*i:]))
	if off < d.ptrs+2*d.cells || off+4 > len(d.page) {
		return nil, fmt.Errorf("%w: cell %d of page %d is at %d", ErrFormat, i, d.number, off)
	}
	return d.page[off:], nil
}

// child gives the page left of a cell, or of the end.
func (d *node) child(i int) (uint32, error) {
	if i == d.cells {
		return d.right, nil
	}
	c, err := d.cell(i)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(c), nil
}

// rowID reads the row number of a cell of a table.
func (d *node) rowID(i int) (int64, error) {
	c, err := d.cell(i)
	if err != nil {
		return 0, err
	}
	if d.kind == interiorTable {
		c = c[4:]
	} else {
		_, n := varint(c) // length of the row
		c = c[n:]
	}
	id, n := varint(c)
	if n == 0 {
		return 0, d.broken(i)
	}
	return int64(id), nil
}

// entry gives the record of a cell of an index.
func (d *node) entry(i int) (Record, error) {
	c, err := d.cell(i)
	if err != nil {
		return nil, err
	}
	if d.kind == interiorIndex {
		c = c[4:]
	}
	size, n := varint(c)
	most := uint64((len(d.page)-12)*64/255 - 23) // what fits into a page
	switch {
	case n == 0:
		return nil, d.broken(i)
	case size > most:
		return nil, fmt.Errorf("%w: index entry of %d bytes", ErrUnsupported, size)
	case size > uint64(len(c)-n):
		return nil, d.broken(i)
	}
	return Record(c[n : n+int(size)]), nil
}

func (d *node) broken(i int) error {
	return fmt.Errorf("%w: cell %d of page %d goes beyond its end", ErrFormat, i, d.number)
}

// varint reads a number of one to nine bytes; n is 0 if it is cut off.
func varint(b []byte) (v uint64, n int) {
	for i := range min(len(b), 8) {
		v = v<<7 | uint64(b[i]&0x7f)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	if len(b) < 9 {
		return 0, 0
	}
	return v<<8 | uint64(b[8]), 9
}
