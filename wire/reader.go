// Package wire has the primitives of Nix's serialisation, as the worker
// protocol, NARs and exports use them: 64-bit little-endian integers, byte
// strings padded with zeros to a multiple of eight, lists with a leading count,
// and framed streams.
//
// [Reader] and [Writer] keep the first error and do nothing after it, so that a
// message can be taken apart without a check at each field; look at Err once
// per message. What a Reader hands out after an error is zero.
//
// A peer that lies about a length costs memory in proportion to what it sent,
// not to what it said.
//
// Source: the Nix manual, "Nix Archive (NAR) format" for strings; the rest by
// reading the traffic of stock clients.
package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Limits on what a message may hold. They are far above what clients send.
const (
	MaxString = 64 << 20 // bytes of one string, a whole derivation or log line
	MaxList   = 16 << 20 // elements of one list
)

// ErrFormat is the cause of every error about bytes that no honest peer sends.
var ErrFormat = errors.New("malformed message")

// Reader takes values off a stream. It is not for several goroutines.
type Reader struct {
	r   *bufio.Reader
	err error
	off int64
	tmp [8]byte
}

// NewReader reads from r. It reads ahead, so r must be used by nobody else.
func NewReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, 32<<10)}
}

// Reset forgets everything, the error too, and reads from r. Making a Reader takes more
// time than a short conversation.
func (r *Reader) Reset(from io.Reader) {
	r.r.Reset(from)
	r.err, r.off = nil, 0
}

// Err is the first error. A stream that ends inside a value gives
// io.ErrUnexpectedEOF; one that ends before the first byte of a value, io.EOF.
func (r *Reader) Err() error { return r.err }

// Offset counts the bytes consumed.
func (r *Reader) Offset() int64 { return r.off }

// Buffered tells how many bytes have arrived that nobody asked for yet.
func (r *Reader) Buffered() int { return r.r.Buffered() }

// Fail sets the error, if there is none yet: for a value that could be read but
// makes no sense.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *Reader) failf(format string, args ...any) {
	r.Fail(fmt.Errorf("%w: %s at byte %d", ErrFormat, fmt.Sprintf(format, args...), r.off))
}

// Read makes the Reader an io.Reader of what follows, for streams inside of a
// message.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.r.Read(p)
	r.off += int64(n)
	if err != nil {
		r.Fail(err)
	}
	return n, err
}

// full fills p; atStart says that an end right here is an ordinary one.
func (r *Reader) full(p []byte, atStart bool) bool {
	if r.err != nil {
		return false
	}
	n, err := io.ReadFull(r.r, p)
	r.off += int64(n)
	if errors.Is(err, io.EOF) && !atStart {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		r.Fail(err)
	}
	return err == nil
}

// Uint64 reads an integer.
func (r *Reader) Uint64() uint64 {
	if r.err == nil && r.r.Buffered() >= 8 {
		b, _ := r.r.Peek(8) // they are there
		n := binary.LittleEndian.Uint64(b)
		_, _ = r.r.Discard(8)
		r.off += 8
		return n
	}
	if !r.full(r.tmp[:], true) {
		return 0
	}
	return binary.LittleEndian.Uint64(r.tmp[:])
}

// Int reads an integer that must not be above limit.
func (r *Reader) Int(limit uint64) uint64 {
	n := r.Uint64()
	if n > limit {
		r.failf("number %d where at most %d makes sense", n, limit)
		return 0
	}
	return n
}

// Bool reads an integer as a truth value. Nix takes any number but zero as true.
func (r *Reader) Bool() bool { return r.Uint64() != 0 }

// Text reads a string of at most MaxString bytes.
func (r *Reader) Text() string { return r.TextMax(MaxString) }

// TextMax reads a string of at most limit bytes.
func (r *Reader) TextMax(limit uint64) string {
	n := r.length(limit)
	if n > 4096 {
		return string(r.body(n))
	}
	// What is short is taken straight from the buffer.
	padded := int((n + 7) &^ 7)
	if r.err != nil || padded == 0 {
		return ""
	}
	b, err := r.r.Peek(padded)
	if err != nil {
		r.Fail(unexpected(err))
		return ""
	}
	s := string(b[:n])
	_, _ = r.r.Discard(padded) // they are there
	r.off += int64(padded)
	r.checkPad(b[n:])
	if r.err != nil {
		return ""
	}
	return s
}

// Bytes reads a string of at most limit bytes.
func (r *Reader) Bytes(limit uint64) []byte {
	return r.body(r.length(limit))
}

// length reads what stands before the bytes of a string.
func (r *Reader) length(limit uint64) uint64 {
	n := r.Uint64()
	if n > limit {
		r.failf("string of %d bytes where at most %d are allowed", n, limit)
		return 0
	}
	return n
}

// body reads the n bytes of a string, and its padding.
func (r *Reader) body(n uint64) []byte {
	if r.err != nil {
		return nil
	}
	b := r.chunked(int(n))
	r.pad(n)
	if r.err != nil {
		return nil
	}
	return b
}

// chunked reads n bytes; the memory grows as they arrive.
func (r *Reader) chunked(n int) []byte {
	const step = 64 << 10
	b := make([]byte, min(n, step))
	for have := 0; ; {
		if !r.full(b[have:], false) {
			return nil
		}
		if have = len(b); have == n {
			return b
		}
		grown := make([]byte, min(n, 2*have))
		copy(grown, b)
		b = grown
	}
}

// pad reads the zeros after a string of n bytes.
func (r *Reader) pad(n uint64) {
	p := r.tmp[:-n&7]
	if len(p) > 0 && r.full(p, false) {
		r.checkPad(p)
	}
}

func (r *Reader) checkPad(p []byte) {
	for _, c := range p {
		if c != 0 {
			r.failf("padding that is not zero")
		}
	}
}

// Count reads the number of elements of a list.
func (r *Reader) Count() int { return int(r.Int(MaxList)) }

// Strings reads a list of strings.
func (r *Reader) Strings() []string {
	return List(r, (*Reader).Text)
}

// List reads a list, each element with item.
func List[T any](r *Reader, item func(*Reader) T) []T {
	n := r.Count()
	out := make([]T, 0, min(n, 1024))
	for range n {
		v := item(r)
		if r.err != nil {
			return nil
		}
		out = append(out, v)
	}
	return out
}
