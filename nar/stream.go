package nar

import (
	"errors"
	"fmt"
	"io"
	"iter"
)

// A Stream is one archive in a longer stream, as an io.Reader: it takes exactly
// the bytes of the archive from its source, checks them on the way, and ends with
// io.EOF. The source is read only while a method runs. A Stream must be closed,
// and is for one goroutine at a time.
type Stream struct {
	next func() ([]byte, bool)
	stop func()
	rest []byte
	err  error // set when next has nothing more
}

var errStopped = errors.New("nobody reads the archive any more")

// NewStream begins an archive. It reads no more from src than it is asked for, if
// src is not itself a buffer.
func NewStream(src io.Reader) *Stream {
	s := &Stream{err: errStopped}
	s.next, s.stop = iter.Pull(func(yield func([]byte) bool) {
		if _, s.err = Copy(yielder(yield), src); s.err == nil {
			s.err = io.EOF
		}
	})
	return s
}

type yielder func([]byte) bool

func (y yielder) Write(p []byte) (int, error) {
	if !y(p) {
		return 0, errStopped
	}
	return len(p), nil
}

// Read implements io.Reader.
func (s *Stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		var more bool
		if s.rest, more = s.next(); !more {
			return 0, s.err
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Skip goes to the end of the archive, and fails if it is malformed.
func (s *Stream) Skip() error {
	for more := true; more; {
		_, more = s.next()
	}
	s.rest = nil
	if errors.Is(s.err, io.EOF) {
		return nil
	}
	return fmt.Errorf("skipping an archive: %w", s.err)
}

// Close ends it, wherever it is. It never fails.
func (s *Stream) Close() error {
	s.stop()
	return nil
}
