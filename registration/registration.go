// Package registration has the text in which Nix says which paths are valid:
// what `nix-store --dump-db` writes and `nix-store --load-db` reads.
//
// Form, each a line that ends with a line feed:
//
//	for each path:
//	  path                 in full
//	  hash of the NAR      SHA-256, base 16 (any spelling is read)
//	  size of the NAR      bytes, decimal
//	  deriver              path in full, or an empty line
//	  number of references decimal
//	  reference            path in full, so often
//
// Paths come in no particular order. Signatures, content addresses, whether a
// path was built here, and when it was registered have no place in it.
//
// Source of the format: by looking at what `nix-store --dump-db` of Nix 2.34.8
// writes.
package registration

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Limits on what is read.
const (
	maxLine       = 4096    // bytes
	maxReferences = 1 << 20 // of one path
)

// ErrFormat is the cause of every error about a text that is no registration.
var ErrFormat = errors.New("malformed registration")

// FormatError says where a registration is wrong.
type FormatError struct {
	Line int // from 1
	Why  string
	Err  error // may be nil
}

func (e *FormatError) Error() string {
	s := fmt.Sprintf("registration, line %d: %s", e.Line, e.Why)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap makes it an ErrFormat.
func (e *FormatError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrFormat}
	}
	return []error{ErrFormat, e.Err}
}

// Append appends the registration of a path to b.
func Append(b []byte, dir storepath.Dir, info *store.PathInfo) []byte {
	line := func(s string) { b = append(append(b, s...), '\n') }
	line(dir.Print(info.Path))
	line(info.NarHash.Digest(nixhash.Base16))
	line(strconv.FormatUint(info.NarSize, 10))
	if info.Deriver.IsZero() {
		line("")
	} else {
		line(dir.Print(info.Deriver))
	}
	line(strconv.Itoa(len(info.References)))
	for _, r := range info.References {
		line(dir.Print(r))
	}
	return b
}

// Read reads registrations to the end of r. After an error, which is a
// *[FormatError] or one of r, there are no more.
func Read(r io.Reader, dir storepath.Dir) iter.Seq2[*store.PathInfo, error] {
	return func(yield func(*store.PathInfo, error) bool) {
		rd := &reader{r: bufio.NewReaderSize(r, 64<<10), dir: dir}
		for {
			info, err := rd.next()
			if errors.Is(err, errEnd) {
				return
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}

var errEnd = errors.New("end of the registrations")

// reader reads one registration after the other. Its methods do nothing after
// the first error.
type reader struct {
	r    *bufio.Reader
	dir  storepath.Dir
	line int
	err  error
}

func (r *reader) next() (*store.PathInfo, error) {
	if _, err := r.r.Peek(1); errors.Is(err, io.EOF) {
		return nil, errEnd
	}
	info := &store.PathInfo{Path: r.path("path")}
	info.NarHash = r.hash()
	info.NarSize = r.number("size of the NAR", 1<<63-1)
	info.Deriver = r.optionalPath("deriver")
	n := r.number("number of references", maxReferences)
	for i := uint64(0); i < n && r.err == nil; i++ {
		info.References = append(info.References, r.path("reference"))
	}
	if r.err != nil {
		return nil, r.err
	}
	info.References = storepath.SortUnique(info.References)
	return info, nil
}

func (r *reader) fail(what string, err error) {
	if r.err == nil {
		r.err = &FormatError{Line: r.line, Why: "cannot read the " + what, Err: err}
	}
}

// text reads a line.
func (r *reader) text(what string) string {
	if r.err != nil {
		return ""
	}
	r.line++
	line, err := r.r.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF):
		r.fail(what, io.ErrUnexpectedEOF)
	case errors.Is(err, bufio.ErrBufferFull) || err == nil && len(line) > maxLine:
		r.fail(what, fmt.Errorf("the line has more than %d bytes", maxLine))
	case err != nil:
		r.err = err
	default:
		return string(line[:len(line)-1])
	}
	return ""
}

func (r *reader) path(what string) storepath.Path {
	p := r.optionalPath(what)
	if p.IsZero() && r.err == nil {
		r.fail(what, errors.New("the line is empty"))
	}
	return p
}

func (r *reader) optionalPath(what string) storepath.Path {
	s := r.text(what)
	if r.err != nil || s == "" {
		return storepath.Path{}
	}
	p, err := r.dir.Parse(s)
	if err != nil {
		r.fail(what, err)
	}
	return p
}

func (r *reader) hash() nixhash.Hash {
	const what = "hash of the NAR"
	s := r.text(what)
	if r.err != nil {
		return nixhash.Hash{}
	}
	h, err := nixhash.ParseAny(s, nixhash.SHA256)
	if err == nil && h.Algorithm() != nixhash.SHA256 {
		err = fmt.Errorf("it is of algorithm %s, not sha256", h.Algorithm())
	}
	if err != nil {
		r.fail(what, err)
	}
	return h
}

func (r *reader) number(what string, limit uint64) uint64 {
	s := r.text(what)
	if r.err != nil {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err == nil && n > limit {
		err = fmt.Errorf("%d is more than %d", n, limit)
	}
	if err != nil {
		r.fail(what, err)
		return 0
	}
	return n
}
