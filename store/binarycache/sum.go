package binarycache

import (
	"hash"
	"io"
	"sync"

	"github.com/strata-nix/strata/nixhash"
)

// sum counts and hashes what is written to it. For what is large another
// goroutine does it, as hashing takes as long as reading or compressing.
type sum struct {
	h    hash.Hash
	n    uint64
	buf  []byte      // being filled for work
	work chan []byte // full ones; nil: hashed at once
	done chan struct{}
}

const (
	sumSize = 128 << 10 // of the pieces that are handed over
	sumLate = 4         // pieces that the hashing may be behind
	sumMin  = 1 << 20   // bytes from which on it is worth it
)

var sumBuffers = sync.Pool{New: func() any { b := make([]byte, 0, sumSize); return &b }}

// newSum makes one for about size bytes; 0: not known. It must be stopped.
func newSum(size uint64) *sum {
	s := &sum{h: nixhash.SHA256.New()}
	if size < sumMin {
		return s
	}
	s.work, s.done = make(chan []byte, sumLate), make(chan struct{})
	go func() {
		defer close(s.done)
		for b := range s.work {
			s.h.Write(b)
			b = b[:0]
			sumBuffers.Put(&b)
		}
	}()
	return s
}

func (s *sum) Write(p []byte) (int, error) {
	s.n += uint64(len(p))
	if s.work == nil {
		return s.h.Write(p)
	}
	for rest := p; len(rest) > 0; {
		if s.buf == nil {
			s.buf = *sumBuffers.Get().(*[]byte)
		}
		n := min(len(rest), cap(s.buf)-len(s.buf))
		s.buf = append(s.buf, rest[:n]...)
		rest = rest[n:]
		if len(s.buf) == cap(s.buf) {
			s.work <- s.buf
			s.buf = nil
		}
	}
	return len(p), nil
}

// sum gives the hash and the number of all that was written. Nothing may be written
// afterwards.
func (s *sum) sum() (nixhash.Hash, uint64) {
	if s.work != nil && len(s.buf) > 0 {
		s.work <- s.buf
		s.buf = nil
	}
	s.stop()
	return nixhash.Sum(nixhash.SHA256, s.h), s.n
}

// stop ends the goroutine. It may be called again.
func (s *sum) stop() {
	if s.work != nil {
		close(s.work)
		<-s.done
		s.work = nil
	}
}

// teeWriter writes to the first and then to the second, which does not fail.
type teeWriter struct {
	w   io.Writer
	sum *sum
}

func (t teeWriter) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	if err != nil {
		return n, err
	}
	return t.sum.Write(p)
}
