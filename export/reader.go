package export

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

// bufferSize is how far a Reader looks ahead.
const bufferSize = 64 << 10

// Reader takes objects off an export. It is not for several goroutines.
type Reader struct {
	dir     storepath.Dir
	wire    *wire.Reader
	objects int
	done    bool
	err     error
}

// NewReader reads from r. If r is a *bufio.Reader of 64 KiB or more, what
// follows the export stays in it; any other r is read ahead.
func NewReader(r io.Reader, dir storepath.Dir) *Reader {
	return &Reader{dir: dir, wire: wire.NewReader(bufio.NewReaderSize(r, bufferSize))}
}

// Next writes the NAR of the next object to w and then tells what it is, with
// the hash and size of the NAR that went by; io.EOF after the last object. The
// NAR is well-formed if there is no error; whether it is the right one for the
// path nobody knows before the info is there. After an error, which may be one
// of w, every further call gives the same.
func (r *Reader) Next(w io.Writer) (*store.PathInfo, error) {
	if r.err != nil {
		return nil, r.err
	}
	if r.done {
		return nil, io.EOF
	}
	info, err := r.next(w)
	if err != nil && err != io.EOF { //nolint:errorlint // made by next itself
		r.err = err
	}
	return info, err
}

func (r *Reader) next(w io.Writer) (*store.PathInfo, error) {
	r.objects++
	switch n := r.wire.Uint64(); {
	case r.wire.Err() != nil:
		return nil, r.wireFault("", "reading the next object")
	case n == end:
		r.done = true
		return nil, io.EOF
	case n != objectFollows:
		return nil, r.fault("", "input doesn't look like something created by 'nix-store --export'", nil)
	}
	hash := sha256.New()
	size, err := nar.Copy(io.MultiWriter(hash, w), r.wire)
	if err != nil {
		var format *nar.FormatError
		if errors.As(err, &format) {
			return nil, r.fault("", "reading the archive", err)
		}
		return nil, err // of the reader below or of w
	}
	info, err := r.metadata()
	if err != nil {
		return nil, err
	}
	info.NarHash, info.NarSize = nixhash.Sum(nixhash.SHA256, hash), uint64(size)
	return info, nil
}

// metadata reads what follows an archive.
func (r *Reader) metadata() (*store.PathInfo, error) {
	m := r.wire.Uint64()
	if r.wire.Err() == nil && m != magic {
		return nil, r.fault("", "Nix archive cannot be imported; wrong format", nil)
	}
	info := &store.PathInfo{}
	full := r.text(maxPath)
	path := func(s string) (p storepath.Path) {
		if r.wire.Err() == nil {
			var err error
			if p, err = r.dir.Parse(s); err != nil {
				r.wire.Fail(err)
			}
		}
		return p
	}
	info.Path = path(full)
	for range r.wire.Int(maxReferences) {
		if r.wire.Err() != nil {
			break
		}
		info.References = append(info.References, path(r.text(maxPath)))
	}
	if s := r.text(maxPath); s != "" {
		info.Deriver = path(s)
	}
	if r.wire.Int(1) == 1 {
		r.text(maxSignature)
	}
	if r.wire.Err() != nil {
		if info.Path.IsZero() {
			full = ""
		}
		return nil, r.wireFault(full, "reading what is known about the object")
	}
	info.References = storepath.SortUnique(info.References)
	return info, nil
}

func (r *Reader) text(limit uint64) string { return string(r.wire.Bytes(limit)) }

// fault makes an error of the stream.
func (r *Reader) fault(path, why string, err error) error {
	return &FormatError{Object: r.objects, Path: path, Offset: r.wire.Offset(), Why: why, Err: err}
}

// wireFault is fault for what package wire found, unless that is an error of
// the reader below, which says nothing about the stream.
func (r *Reader) wireFault(path, doing string) error {
	err := unexpected(r.wire.Err())
	for _, ours := range []error{wire.ErrFormat, storepath.ErrFormat, io.ErrUnexpectedEOF} {
		if errors.Is(err, ours) {
			return r.fault(path, doing, err)
		}
	}
	return fmt.Errorf("reading an export: %w", err)
}

// unexpected is for places where a stream may not end.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
