package compress

import (
	"context"
	"errors"
	"io"
)

// DefaultLevel stands for a method's own: 6 for xz, gzip and br, 3 for zstd, 9
// for bzip2. They are upstream's, but for br, where upstream takes 11.
const DefaultLevel = -1

// Options say how to compress, as upstream's settings compression-level and
// parallel-compression. Level has no useful zero: start from DefaultLevel.
type Options struct {
	// Level is how hard to try: 0 to 9 for xz and gzip, 1 to 9 for bzip2, 1 to
	// 22 for zstd, 0 to 11 for br. None ignores it.
	Level int
	// Parallel uses all processors, where the method has a way to: xz and zstd.
	Parallel bool
}

// NewWriter compresses to w. For None it passes on what is written. The error
// wraps ErrLevel if the method does not have opts.Level.
//
// What was written is complete when Close returns without an error; Close does
// not close w. If the data is not to be completed, cancel ctx and then call
// Close, which must be called in any case. Writes fail with ctx's cause when ctx
// is done, with w's error if w fails, and with an *Error otherwise. The writer
// is for one goroutine. w may be written to by another one until Close returns.
func NewWriter(ctx context.Context, m Method, w io.Writer, opts Options) (io.WriteCloser, error) {
	return nil, errors.ErrUnsupported
}
