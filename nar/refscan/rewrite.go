package refscan

import (
	"errors"
	"fmt"
	"io"
)

// A Rewriter is an io.WriteCloser that passes a stream on and replaces hash
// parts in it by others. Matches do not overlap: of two that would, the first
// is replaced, and replacements are not searched again. It holds back up to 31
// bytes until more is written or it is closed. Errors are sticky.
type Rewriter struct {
	w      io.Writer
	m      matcher
	to     [][Len]byte
	buf    []byte // bytes that were held back come first
	skip   int    // how many of them belong to a replacement
	passed int64
	err    error
	found  func(offset int64) // nil, or told about each match
}

// NewRewriter returns a Rewriter to w. The keys and values of rewrites are hash
// parts.
func NewRewriter(w io.Writer, rewrites map[string]string) (*Rewriter, error) {
	r := newRewriter(w)
	for from, to := range rewrites {
		if err := CheckHashPart(to); err != nil {
			return nil, err
		}
		if err := r.add(from, [Len]byte([]byte(to))); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func newRewriter(w io.Writer) *Rewriter {
	return &Rewriter{w: w, buf: make([]byte, 0, 64<<10)}
}

func (r *Rewriter) add(from string, to [Len]byte) error {
	r.to = append(r.to, to)
	return r.m.add(from, len(r.to)-1)
}

func (r *Rewriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) && r.err == nil {
		n := copy(r.buf[len(r.buf):cap(r.buf)], p[done:])
		r.buf = r.buf[:len(r.buf)+n]
		r.rewrite()
		r.pass(max(len(r.buf)-(Len-1), 0))
		done += n
	}
	return done, r.err
}

// rewrite replaces what is in the buffer.
func (r *Rewriter) rewrite() {
	for {
		at, number := r.m.next(r.buf, r.skip)
		if at < 0 {
			return
		}
		if r.found != nil {
			r.found(r.passed + int64(at))
		}
		r.skip = at + copy(r.buf[at:], r.to[number][:])
	}
}

// pass writes the first n bytes of the buffer and keeps the others.
func (r *Rewriter) pass(n int) {
	if n == 0 {
		return
	}
	if _, err := r.w.Write(r.buf[:n]); err != nil {
		r.err = fmt.Errorf("rewriting hashes: %w", err)
	}
	r.passed += int64(n)
	r.buf = r.buf[:copy(r.buf, r.buf[n:])]
	r.skip = max(r.skip-n, 0)
}

// Close passes on what was held back. It does not close the underlying writer.
func (r *Rewriter) Close() error {
	if r.err == nil {
		r.pass(len(r.buf))
	}
	if r.err != nil {
		return r.err
	}
	r.err = errClosed
	return nil
}

var errClosed = errors.New("rewriter is closed already")
