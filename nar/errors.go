package nar

import (
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrUnsupportedType is for sockets, devices and FIFOs: an archive cannot
	// hold them.
	ErrUnsupportedType = errors.New("has an unsupported type")
	// ErrChanged is for a file that was modified while it was being read.
	ErrChanged = errors.New("changed while it was read")
	// ErrTooDeep is for a tree with more than MaxDepth objects on one path.
	ErrTooDeep = errors.New("exceeds the maximum NAR directory depth of " + strconv.Itoa(MaxDepth))
	// ErrOwner is for a file that belongs to somebody whom the caller of
	// Canonicalise did not expect.
	ErrOwner = errors.New("has an owner it should not have")
	// ErrNotUTF8 is for a name or symlink target that a JSON listing cannot
	// express.
	ErrNotUTF8 = errors.New("is not valid UTF-8")
)

// A FormatError says that bytes are not a valid archive, or not a valid listing
// of one. Errors of the underlying reader other than the end of the stream are
// never turned into one.
type FormatError struct {
	// Offset is the byte, from the start of the archive or listing, at which
	// the offending token begins.
	Offset int64
	// Path is the archive entry being parsed, empty at the root. Its bytes come
	// from the archive.
	Path string
	// Reason is the complaint, without place.
	Reason string
	// Err is io.ErrUnexpectedEOF if the input was truncated, ErrTooDeep if it
	// is nested too deeply, else nil.
	Err error

	listing bool // of a listing, not an archive
}

func (e *FormatError) Error() string {
	what := "archive"
	if e.listing {
		what = "archive listing"
	}
	s := fmt.Sprintf("bad %s: %s at offset %d", what, e.Reason, e.Offset)
	if e.Path != "" {
		s += fmt.Sprintf(" in %q", e.Path)
	}
	return s
}

func (e *FormatError) Unwrap() error { return e.Err }

const reasonTruncated = "unexpected end of file"

// asTruncated turns the two ends of a stream into io.ErrUnexpectedEOF, since no
// archive may stop there, and leaves other errors alone.
func asTruncated(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
