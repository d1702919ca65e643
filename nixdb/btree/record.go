package btree

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
)

// Record is a row of a table or an entry of an index: its columns, as they are
// stored. It is good until the next page is asked for.
type Record []byte

// Kind is what a value is.
type Kind uint8

// The kinds of values.
const (
	Null Kind = iota
	Integer
	Float
	TextKind
	Blob
)

// Value is one column.
type Value struct {
	Kind  Kind
	Int   int64
	Float float64
	Text  []byte // part of the record
}

// Columns decodes the first columns into dst and returns how many there were. Rows
// may have fewer than their table, if that got new ones later: these are null.
func (r Record) Columns(dst []Value) (int, error) {
	size, n := varint(r)
	if n == 0 || size > uint64(len(r)) || size < uint64(n) {
		return 0, fmt.Errorf("%w: a record of %d bytes has a header of %d", ErrFormat, len(r), size)
	}
	header, body := r[n:size], r[size:]
	for i := range dst {
		if len(header) == 0 {
			return i, nil
		}
		code, n := varint(header)
		if n == 0 {
			return i, fmt.Errorf("%w: the header of a record is cut off", ErrFormat)
		}
		header = header[n:]
		length, err := dst[i].decode(code, body)
		if err != nil {
			return i, err
		}
		body = body[length:]
	}
	return len(dst), nil
}

// first decodes the first column alone. A search looks at that of some twenty entries, so
// texts and integers whose header is as short as most are get a shorter way.
func (r Record) first() (v Value, err error) {
	if len(r) > 2 && r[0] >= 2 && r[0] < 0x80 && int(r[0]) <= len(r) {
		body := r[r[0]:]
		code := int(r[1])
		if code >= 0x80 && r[0] > 2 && r[2] < 0x80 { // two bytes
			code = (code&0x7f)<<7 | int(r[2])
		}
		switch {
		case code >= 0x80 && r[1] >= 0x80 && r[2] >= 0x80:
		case code >= 13 && code%2 == 1 && (code-13)/2 <= len(body):
			return Value{Kind: TextKind, Text: body[:(code-13)/2]}, nil
		case code >= 1 && code <= 6 && int(intLength[code]) <= len(body):
			return Value{Kind: Integer, Int: signed(body[:intLength[code]])}, nil
		}
	}
	var one [1]Value
	_, err = r.Columns(one[:])
	return one[0], err
}

// Ints decodes the first columns into dst if they are integers, which takes less time than Columns
// does. False means that they are not, or that the record makes no sense.
func (r Record) Ints(dst []int64) bool {
	size, n := varint(r)
	if n == 0 || size > uint64(len(r)) || size < uint64(n) {
		return false
	}
	header, body := r[n:size], r[size:]
	if len(header) < len(dst) {
		return false
	}
	for i := range dst {
		code := header[i] // one byte: those of integers are small
		switch {
		case code >= 1 && code <= 6:
			length := int(intLength[code])
			if length > len(body) {
				return false
			}
			dst[i], body = signed(body[:length]), body[length:]
		case code == 8, code == 9:
			dst[i] = int64(code - 8)
		default:
			return false
		}
	}
	return true
}

// intLength is how many bytes an integer of a serial type takes.
var intLength = [...]uint8{0, 1, 2, 3, 4, 6, 8}

// decode reads a value and returns how many bytes it took.
func (v *Value) decode(code uint64, b []byte) (int, error) {
	length, err := lengthOf(code)
	if err != nil {
		return 0, err
	}
	if length > uint64(len(b)) {
		return 0, fmt.Errorf("%w: a value of %d bytes where there are %d", ErrFormat, length, len(b))
	}
	*v = Value{}
	switch {
	case code == 0:
	case code <= 6:
		v.Kind, v.Int = Integer, signed(b[:length])
	case code == 7:
		v.Kind, v.Float = Float, math.Float64frombits(binary.BigEndian.Uint64(b))
	case code == 8, code == 9:
		v.Kind, v.Int = Integer, int64(code-8)
	case code >= 13 && code%2 == 1:
		v.Kind, v.Text = TextKind, b[:length]
	default:
		v.Kind = Blob
	}
	return int(length), nil
}

// lengthOf is how many bytes a value of a serial type takes.
func lengthOf(code uint64) (uint64, error) {
	if code >= 12 {
		return (code - 12) / 2, nil
	}
	lengths := [...]uint64{0, 1, 2, 3, 4, 6, 8, 8, 0, 0}
	if code >= uint64(len(lengths)) {
		return 0, fmt.Errorf("%w: a value of type %d", ErrFormat, code)
	}
	return lengths[code], nil
}

// compareInt orders a number before, at or behind an integer.
func (v Value) compareInt(n int64) int {
	if v.Kind == Integer {
		return cmp.Compare(v.Int, n)
	}
	whole := math.Trunc(v.Float)
	switch {
	case whole < math.MinInt64:
		return -1
	case whole >= math.MaxInt64: // as a float, which is one above
		return 1
	}
	return cmp.Or(cmp.Compare(int64(whole), n), cmp.Compare(v.Float, whole))
}

// signed reads a big-endian two's-complement number.
func signed(b []byte) int64 {
	v := int64(int8(b[0]))
	for _, c := range b[1:] {
		v = v<<8 | int64(c)
	}
	return v
}
