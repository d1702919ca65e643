package compress

import (
	"context"
	"fmt"
	"io"
)

// DefaultLevel stands for a method's own: 6 for xz, gzip and br, 3 for zstd, 9
// for bzip2. They are upstream's, but for br, where upstream takes 11, which is
// some thirty times slower.
const DefaultLevel = -1

// Options say how to compress, as upstream's settings compression-level and
// parallel-compression. Level has no useful zero: start from DefaultLevel.
type Options struct {
	// Level is how hard to try: 0 to 9 for xz and gzip, 1 to 9 for bzip2, 1 to
	// 22 for zstd, whose encoder knows four, the last of them from 10 on, and 0 to
	// 11 for br. None ignores it.
	Level int
	// Parallel uses all processors, where the method has a way to: xz and zstd.
	Parallel bool
}

// encoders are how each method is written.
var encoders = map[Method]struct {
	lowest, highest, otherwise int // levels
	open                       func(*sink, Options) (io.WriteCloser, error)
}{
	XZ:     {0, 9, 6, newXZWriter},
	Zstd:   {1, 22, 3, newZstdWriter},
	Gzip:   {0, 9, 6, newGzipWriter},
	Bzip2:  {1, 9, 9, newBzip2Writer},
	Brotli: {0, 11, 6, newBrotliWriter},
}

// NewWriter compresses to w. For None it passes on what is written. The error is
// an *UnknownMethodError, or wraps ErrLevel if the method does not have
// opts.Level.
//
// What was written is complete when Close returns without an error; Close does
// not close w. If the data is not to be completed, cancel ctx and then call
// Close, which must be called in any case. Writes fail with ctx's cause when ctx
// is done, with w's error if w fails, and with an *Error otherwise. The writer
// is for one goroutine at a time. w may be written to by another one until Close
// returns.
func NewWriter(ctx context.Context, m Method, w io.Writer, opts Options) (io.WriteCloser, error) {
	out := &sink{ctx: ctx, w: w}
	if m == None || m == "" {
		return &writer{method: None, sink: out, codec: nopCloser{out}}, nil
	}
	kind, ok := encoders[m]
	if !ok {
		return nil, &UnknownMethodError{Name: string(m)}
	}
	if opts.Level == DefaultLevel {
		opts.Level = kind.otherwise
	}
	if opts.Level < kind.lowest || opts.Level > kind.highest {
		err := fmt.Errorf("%w: %d is not between %d and %d", ErrLevel, opts.Level, kind.lowest, kind.highest)
		return nil, &Error{Method: m, Op: "compress", Err: err}
	}
	codec, err := kind.open(out, opts)
	if err != nil {
		return nil, &Error{Method: m, Op: "compress", Err: err}
	}
	return &writer{method: m, sink: out, codec: codec}, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// A writer holds a codec and puts its errors in order.
type writer struct {
	method Method
	sink   *sink
	codec  io.WriteCloser
	err    error // sticky
}

func (e *writer) Write(p []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	if e.err = e.sink.state(); e.err != nil {
		return 0, e.err
	}
	n, err := e.codec.Write(p)
	e.err = e.fault(err)
	return n, e.err
}

func (e *writer) fault(err error) error {
	written := e.sink.state()
	switch {
	case err == nil:
		return nil
	case written != nil:
		return written
	}
	return &Error{Method: e.method, Op: "compress", Err: err}
}

func (e *writer) Close() error {
	if e.codec == nil {
		return nil
	}
	err := e.codec.Close() // also after an error: there may be goroutines and a process
	e.codec = nil
	if e.err == nil {
		if e.err = e.sink.state(); e.err == nil {
			e.err = e.fault(err)
		}
	}
	failed := e.err
	if failed == nil {
		e.err = ErrClosed
	}
	return failed
}
