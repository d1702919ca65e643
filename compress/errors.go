package compress

import (
	"errors"
	"fmt"
	"slices"
)

// MaxWindow is how far back a stream may refer, in bytes: the dictionary of xz
// and the window of zstd, which the reader has to keep in memory. It is what
// `zstd --long` and more than what `xz -9` use. Streams that want more are
// refused with ErrMemory.
const MaxWindow = 128 << 20

var (
	// ErrTrailing is for bytes after the end of the compressed data that are
	// not another stream. Where they are few it may be io.ErrUnexpectedEOF
	// instead: they could be the beginning of one.
	ErrTrailing = errors.New("there is something else after the compressed data")
	// ErrCorrupt is for data that its method cannot have written, wrong
	// checksums included.
	ErrCorrupt = errors.New("compressed data is corrupt")
	// ErrMemory is for streams that need more than MaxWindow to be read.
	ErrMemory = errors.New("reading this would take too much memory")
	// ErrLevel is for a compression level that the method does not have.
	ErrLevel = errors.New("compression level out of range")
	// ErrClosed is for a Write after Close.
	ErrClosed = errors.New("already closed")
)

// Error is what readers and writers fail with, but for errors of the underlying
// reader or writer and of the context, which are passed on as they are.
type Error struct {
	Method Method
	// Op is "compress" or "decompress".
	Op string
	// Err is io.ErrUnexpectedEOF for a stream that ends too early, or wraps one
	// of the errors above or that of a child process.
	Err error
}

func (e *Error) Error() string { return e.Op + " " + string(e.Method) + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// UnknownMethodError is for a name that is not among Methods.
type UnknownMethodError struct {
	Name string
}

// beyond are what upstream's libarchive compresses with too.
var beyond = []string{"compress", "grzip", "lrzip", "lz4", "lzip", "lzma", "lzop"}

func (e *UnknownMethodError) Error() string {
	if slices.Contains(beyond, e.Name) {
		return fmt.Sprintf("compression method '%s' is not supported; there are %q", e.Name, Methods)
	}
	return fmt.Sprintf("unknown compression method '%s'", e.Name)
}
