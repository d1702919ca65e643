package compress

import (
	stdbzip2 "compress/bzip2"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/dsnet/compress/bzip2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// trailing is what begins a stream wrongly: after another one it is something else.
func (d *reader) trailing(err error) error {
	if d.any {
		return ErrTrailing
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// openZstd makes a decoder that works in the goroutine of its reader: one more
// would make a large object faster, and several objects at once slower.
func openZstd(d *reader) (io.Reader, error) {
	d.explain = func(err error) error {
		switch {
		case errors.Is(err, zstd.ErrMagicMismatch):
			return d.trailing(err)
		case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
			return fmt.Errorf("%w: %w", ErrMemory, err)
		}
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	dec, err := zstd.NewReader(d.src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(MaxWindow), zstd.WithDecoderMaxMemory(math.MaxInt64))
	if err != nil {
		return nil, err
	}
	d.release = dec.Close
	return dec, nil
}

func openGzip(d *reader) (io.Reader, error) {
	d.explain = func(err error) error {
		if errors.Is(err, gzip.ErrHeader) {
			return d.trailing(err)
		}
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return gzip.NewReader(d.input())
}

func openBzip2(d *reader) (io.Reader, error) {
	d.explain = func(err error) error {
		if strings.Contains(err.Error(), "continuation") {
			return ErrTrailing
		}
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return stdbzip2.NewReader(d.input()), nil
}

func openBrotli(d *reader) (io.Reader, error) {
	d.explain = func(err error) error {
		if strings.Contains(err.Error(), "excessive input") {
			return ErrTrailing
		}
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return brotli.NewReader(d.input()), nil
}

func newZstdWriter(w *sink, opts Options) (io.WriteCloser, error) {
	level := zstd.EncoderLevelFromZstd(opts.Level)
	if opts.Parallel {
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(0), zstd.WithEncoderLevel(level)) // 0: all
	}
	pool := &zstdEncoders[level]
	if e, ok := pool.Get().(*zstd.Encoder); ok {
		e.Reset(w)
		return zstdWriter{e, pool}, nil
	}
	e, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(level))
	return zstdWriter{e, pool}, err
}

// zstdEncoders are kept by level, since their tables take megabytes that have to be
// cleared, which is more work than compressing what most objects are. They work in the
// goroutine of their writer, and have nothing of it when they are put back.
var zstdEncoders [zstd.SpeedBestCompression + 1]sync.Pool

type zstdWriter struct {
	*zstd.Encoder
	pool *sync.Pool
}

func (z zstdWriter) Close() error {
	err := z.Encoder.Close()
	z.Encoder.Reset(nil)
	z.pool.Put(z.Encoder)
	return err
}

func newGzipWriter(w *sink, opts Options) (io.WriteCloser, error) {
	return gzip.NewWriterLevel(w, opts.Level)
}

func newBzip2Writer(w *sink, opts Options) (io.WriteCloser, error) {
	return bzip2.NewWriter(w, &bzip2.WriterConfig{Level: opts.Level})
}

func newBrotliWriter(w *sink, opts Options) (io.WriteCloser, error) {
	return brotli.NewWriterLevel(w, opts.Level), nil
}
