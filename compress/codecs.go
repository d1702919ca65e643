package compress

import (
	stdbzip2 "compress/bzip2"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

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

func newZstdWriter(w io.Writer, opts Options) (io.WriteCloser, error) {
	workers := 1
	if opts.Parallel {
		workers = 0 // all
	}
	return zstd.NewWriter(w, zstd.WithEncoderConcurrency(workers),
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(opts.Level)))
}

func newGzipWriter(w io.Writer, opts Options) (io.WriteCloser, error) {
	return gzip.NewWriterLevel(w, opts.Level)
}

func newBzip2Writer(w io.Writer, opts Options) (io.WriteCloser, error) {
	return bzip2.NewWriter(w, &bzip2.WriterConfig{Level: opts.Level})
}

func newBrotliWriter(w io.Writer, opts Options) (io.WriteCloser, error) {
	return brotli.NewWriterLevel(w, opts.Level), nil
}
