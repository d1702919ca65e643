package compress

import (
	"bufio"
	"context"
	"io"
)

// NewReader decompresses r. For None it gives the bytes of r. Nothing is read
// before the first Read. The error is an *UnknownMethodError.
//
// The reader fails with ctx's cause when ctx is done, with r's error if r fails,
// and with an *Error otherwise. It must be closed, which does not close r. It is
// for one goroutine at a time.
func NewReader(ctx context.Context, m Method, r io.Reader) (io.ReadCloser, error) {
	d := &reader{method: m, src: &source{ctx: ctx, r: r}}
	switch m {
	case None, "":
		d.method = None
		d.open = func(*reader) (io.Reader, error) { return d.src, nil }
	case XZ:
		d.open = openXZ
	case Zstd:
		d.open = openZstd
	case Gzip:
		d.open = openGzip
	case Bzip2:
		d.open = openBzip2
	case Brotli:
		d.open = openBrotli
	default:
		return nil, &UnknownMethodError{Name: string(m)}
	}
	return d, nil
}

// inputBuffer is how much is read of what is decompressed at once, in bytes.
const inputBuffer = 64 << 10

// A reader holds a codec and puts its errors in order.
type reader struct {
	method Method
	src    *source
	// open makes the codec when the first byte is wanted, since some begin by
	// reading a header.
	open func(*reader) (io.Reader, error)

	codec   io.Reader
	release func()            // what Close has to do, if not nil
	explain func(error) error // finds one of the package's errors for one of the codec's
	any     bool              // something came out
	err     error             // sticky
}

// input is the source with a buffer.
func (d *reader) input() *bufio.Reader { return bufio.NewReaderSize(d.src, inputBuffer) }

func (d *reader) Read(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	if d.codec == nil {
		if d.codec, d.err = d.open(d); d.err != nil {
			d.err = d.fault(d.err)
			return 0, d.err
		}
	}
	n, err := d.codec.Read(p)
	d.any = d.any || n > 0
	if err != nil {
		d.err = d.fault(err)
	}
	return n, d.err
}

// fault says what went wrong: the error of what was read counts for more than
// what a codec made of it.
func (d *reader) fault(err error) error {
	switch {
	case d.src.err != nil:
		return d.src.err
	case context.Cause(d.src.ctx) != nil:
		return context.Cause(d.src.ctx)
	case d.method == None:
		return err
	case !d.src.any:
		err = io.ErrUnexpectedEOF
	case err == io.EOF:
		return err
	case d.explain != nil && err != io.ErrUnexpectedEOF:
		err = d.explain(err)
	}
	return &Error{Method: d.method, Op: "decompress", Err: err}
}

func (d *reader) Close() error {
	if d.release != nil {
		d.release()
		d.release = nil
	}
	d.err = ErrClosed
	return nil
}
