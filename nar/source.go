package nar

import (
	"bufio"
	"io"
	"sync"
)

const (
	// peekMax bounds what peek and want may ask for: the header of an entry
	// with the longest name.
	peekMax = 512
	// bulkSize is the buffer through which file contents are moved.
	bulkSize = 256 << 10
)

var bulkPool = sync.Pool{New: func() any { return new([bulkSize]byte) }}

// A source hands out a reader's bytes and never takes more of them than its
// user asked for. It looks ahead in the reader's own buffer if it is a
// *bufio.Reader, and else in a small one that holds only what was asked for.
type source struct {
	r   io.Reader
	br  *bufio.Reader // nil: r has no buffer we could use
	off int64         // bytes handed out so far
	tee *bufio.Writer // nil, or gets all that is handed out

	ahead  [peekMax]byte // used without br
	lo, hi int
	err    error // what ended ahead
}

func (s *source) init(r io.Reader) {
	s.r = r
	if br, ok := r.(*bufio.Reader); ok && br.Size() >= peekMax {
		s.br = br
	}
}

// want says that at least n bytes follow in every valid archive, so that an
// unbuffered source may fetch them in one go.
func (s *source) want(n int) {
	if s.br != nil || s.hi-s.lo >= n || s.err != nil {
		return
	}
	s.hi = copy(s.ahead[:], s.ahead[s.lo:s.hi])
	s.lo = 0
	var m int
	m, s.err = io.ReadAtLeast(s.r, s.ahead[s.hi:n], n-s.hi)
	s.hi += m
}

// peek returns the next n bytes without taking them, valid until the next call;
// fewer only together with an error, io.ErrUnexpectedEOF at the end.
func (s *source) peek(n int) ([]byte, error) {
	if s.br != nil {
		b, err := s.br.Peek(n)
		return b, asTruncated(err)
	}
	s.want(n)
	if s.hi-s.lo < n {
		return s.ahead[s.lo:s.hi], asTruncated(s.err)
	}
	return s.ahead[s.lo : s.lo+n], nil
}

// advance takes n bytes that were peeked at.
func (s *source) advance(n int) error {
	s.off += int64(n)
	if s.tee != nil {
		b, _ := s.peek(n)
		if _, err := s.tee.Write(b); err != nil {
			return &writeError{err}
		}
	}
	if s.br != nil {
		s.br.Discard(n)
	} else {
		s.lo += n
	}
	return nil
}

// read reads like io.Reader, but io.EOF becomes io.ErrUnexpectedEOF.
func (s *source) read(p []byte) (n int, err error) {
	if s.br != nil {
		n, err = s.br.Read(p)
	} else if s.lo < s.hi {
		n = copy(p, s.ahead[s.lo:s.hi])
		s.lo += n
	} else if s.err != nil {
		err = s.err
	} else {
		n, err = s.r.Read(p)
	}
	s.off += int64(n)
	if s.tee != nil && n > 0 {
		if _, terr := s.tee.Write(p[:n]); terr != nil {
			return n, &writeError{terr}
		}
	}
	if n > 0 {
		err = nil // it will come again
	}
	return n, asTruncated(err)
}

// readFull fills p.
func (s *source) readFull(p []byte) error {
	for len(p) > 0 {
		n, err := s.read(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// skip takes n bytes and forgets them.
func (s *source) skip(n int64) error {
	if s.br != nil && s.tee == nil {
		const most = 1 << 30 // Discard takes an int
		for n > 0 {
			m, err := s.br.Discard(int(min(n, most)))
			s.off += int64(m)
			n -= int64(m)
			if err != nil {
				return asTruncated(err)
			}
		}
		return nil
	}
	_, err := s.writeTo(io.Discard, n)
	return err
}

// writeTo takes n bytes and writes them to w, straight from the reader's buffer
// as long as that has some. Errors of w come as *writeError.
func (s *source) writeTo(w io.Writer, n int64) (done int64, err error) {
	var bulk *[bulkSize]byte
	for done < n {
		left := n - done
		var m int
		if s.br != nil && s.tee == nil && (s.br.Buffered() > 0 || left < int64(s.br.Size())) {
			m, err = s.lend(w, left)
		} else {
			if bulk == nil {
				bulk = bulkPool.Get().(*[bulkSize]byte)
				defer bulkPool.Put(bulk)
			}
			m, err = s.carry(w, bulk[:min(left, bulkSize)])
		}
		done += int64(m)
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// lend writes up to n bytes out of the reader's own buffer.
func (s *source) lend(w io.Writer, n int64) (int, error) {
	if _, err := s.br.Peek(1); err != nil {
		return 0, asTruncated(err)
	}
	b, _ := s.br.Peek(int(min(n, int64(s.br.Buffered()))))
	if _, err := w.Write(b); err != nil {
		return 0, &writeError{err}
	}
	return len(b), s.advance(len(b))
}

// carry reads into buf once and writes that.
func (s *source) carry(w io.Writer, buf []byte) (int, error) {
	m, err := s.read(buf)
	if err != nil {
		return m, err
	}
	if _, err := w.Write(buf[:m]); err != nil {
		return m, &writeError{err}
	}
	return m, nil
}

// writeError marks an error as one of the destination's, not the source's.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }
