package btree

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var (
	// ErrFormat: a page is not what it should be.
	ErrFormat = errors.New("malformed database page")
	// ErrUnsupported: the database uses something that this package does not know.
	ErrUnsupported = errors.New("database needs SQLite to be read")
)

// Source is where pages come from.
type Source interface {
	// Page gives a page by its number, from 1 on, each of the size that the first
	// says. What it gives may be written over after the next call.
	Page(n uint32) ([]byte, error)
	// Count is how many there are. A tree that has more is one whose pages lead in a
	// circle.
	Count() int
}

// File is a database.
type File struct {
	src    Source
	usable int // bytes of a page that are used
}

// Offsets in the header of the file, in page 1.
const (
	offPageSize = 16
	offReserved = 20
	offCookie   = 40
	offEncoding = 56
	headerSize  = 100
)

const utf8 = 1

// Open reads the header of the file.
func Open(src Source) (*File, error) {
	p, err := src.Page(1)
	if err != nil {
		return nil, err
	}
	if len(p) < headerSize {
		return nil, fmt.Errorf("%w: page 1 has %d bytes", ErrFormat, len(p))
	}
	size := int(binary.BigEndian.Uint16(p[offPageSize:]))
	if size == 1 {
		size = 65536
	}
	if size != len(p) || size < 512 || size&(size-1) != 0 {
		return nil, fmt.Errorf("%w: page size %d", ErrFormat, size)
	}
	if encoding := binary.BigEndian.Uint32(p[offEncoding:]); encoding != utf8 {
		return nil, fmt.Errorf("%w: text encoding %d", ErrUnsupported, encoding)
	}
	f := &File{src: src, usable: size - int(p[offReserved])}
	if f.usable < 480 {
		return nil, fmt.Errorf("%w: %d bytes of a page are used", ErrFormat, f.usable)
	}
	return f, nil
}

// SchemaCookie is a number that changes when tables or indices do.
func (f *File) SchemaCookie() (uint32, error) {
	p, err := f.src.Page(1)
	if err != nil {
		return 0, err
	}
	if len(p) < headerSize {
		return 0, fmt.Errorf("%w: page 1 has %d bytes", ErrFormat, len(p))
	}
	return binary.BigEndian.Uint32(p[offCookie:]), nil
}

// Tree is the table or the index whose root is a page.
func (f *File) Tree(root uint32) Tree { return Tree{f, root} }

// Tree is a table or an index.
type Tree struct {
	f    *File
	root uint32
}

// maxDepth is more than any tree needs whose pages have two children each.
const maxDepth = 40

// errCircle ends a walk that would have no end.
var errCircle = fmt.Errorf("%w: a tree is deeper, or has more pages, than can be", ErrFormat)

// walk bounds a way through a tree whose pages may lead in a circle.
type walk struct {
	left  int // pages that may still be visited
	depth int
}

func (w *walk) enter() bool {
	w.left--
	w.depth++
	return w.left >= 0 && w.depth <= maxDepth
}

func (w *walk) leave() { w.depth-- }
