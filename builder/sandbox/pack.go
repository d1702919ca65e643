package sandbox

import (
	"encoding/binary"
	"errors"
)

// A pack is values on their way between the stages, one after the other: numbers
// as varints, text of any bytes with its length before it. A type has one method
// that names its fields in their order, and serves to write and to read.
//
// It is no more than this because a stage lives for a moment: the packages for
// JSON and gob would take longer to get ready than all that a stage does.
type pack struct {
	b       []byte // what has been written, or is still to be read
	reading bool
	short   bool // there was less to read than there should be
}

type packed interface{ pack(*pack) }

var errShort = errors.New("what a stage was told is not complete")

// packUp writes a value.
func packUp(v packed) []byte {
	p := new(pack)
	v.pack(p)
	return p.b
}

// unpack reads what packUp made of a value of the same type.
func unpack(b []byte, v packed) error {
	p := &pack{b: b, reading: true}
	v.pack(p)
	if p.short || len(p.b) > 0 {
		return errShort
	}
	return nil
}

// integer is for what fits in 64 bits.
func integer[T ~int | ~int64 | ~uint8 | ~uint32 | ~uint64 | ~uintptr](p *pack, v *T) {
	if !p.reading {
		p.b = binary.AppendUvarint(p.b, uint64(*v))
		return
	}
	u, n := binary.Uvarint(p.b)
	if n <= 0 {
		p.b, p.short = nil, true
		return
	}
	*v, p.b = T(u), p.b[n:]
}

func (p *pack) flag(v *bool) {
	var n uint8
	if *v {
		n = 1
	}
	integer(p, &n)
	*v = n != 0
}

// text is a string or bytes.
func text[T ~string | ~[]byte](p *pack, v *T) {
	n := len(*v)
	integer(p, &n)
	switch {
	case !p.reading:
		p.b = append(p.b, *v...)
	case n < 0 || n > len(p.b):
		p.b, p.short = nil, true
	case n == 0:
		*v = *new(T)
	default:
		*v, p.b = T(p.b[:n]), p.b[n:]
	}
}

// each is for the elements of a list.
func each[T any](p *pack, list *[]T, element func(*T)) {
	n := len(*list)
	integer(p, &n)
	if p.reading {
		*list = nil
	}
	for i := 0; i < n && !p.short; i++ {
		if p.reading {
			*list = append(*list, *new(T))
		}
		element(&(*list)[i])
	}
}
