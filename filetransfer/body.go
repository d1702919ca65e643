package filetransfer

import (
	"bytes"
	"io"
	"sync/atomic"
)

// Bytes is a body of what is in memory.
func Bytes(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

// Section is a body of the first size bytes of r, for example an *os.File, which
// stays open.
func Section(r io.ReaderAt, size int64) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(r, 0, size)), nil }
}

// Once is a body that can be sent only once, so that nothing is tried again
// after its first byte was taken. It does not close r.
func Once(r io.Reader) func() (io.ReadCloser, error) {
	var taken atomic.Bool
	return func() (io.ReadCloser, error) {
		if taken.Swap(true) {
			return nil, ErrOnce
		}
		return io.NopCloser(r), nil
	}
}
