package compress

import (
	"context"
	"io"
	"sync"
)

// A source is what is decompressed. It stops when the context is done, and
// remembers why it ended, since codecs make errors of their own from others'.
type source struct {
	ctx context.Context
	r   io.Reader

	any bool  // something was read
	err error // of r or of the context, but for io.EOF
}

func (s *source) Read(p []byte) (n int, err error) {
	if err = context.Cause(s.ctx); err == nil {
		n, err = s.r.Read(p)
	}
	s.any = s.any || n > 0
	if err != nil && err != io.EOF && s.err == nil {
		s.err = err
	}
	return n, err
}

// A sink is what compressed data goes to, for writers what a source is for
// readers. Some codecs write from a goroutine.
type sink struct {
	ctx context.Context
	w   io.Writer

	mu  sync.Mutex
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	if err := s.state(); err != nil {
		return 0, err
	}
	n, err := s.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.err = err
	}
	return n, err
}

func (s *sink) state() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = context.Cause(s.ctx)
	}
	return s.err
}
