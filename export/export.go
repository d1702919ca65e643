// Package export has the streams of `nix-store --export` and `--import`: store
// objects with what is known about them, one after the other, references first.
//
// Form, in the primitives of package wire; there is only this one version:
//
//	for each object:
//	  1
//	  the NAR, as it is
//	  0x4558494e                "NIXE" from the last byte to the first
//	  path                      in full
//	  references                list of paths in full
//	  deriver                   path in full, or ""
//	  0                         or 1 and a signature of old, not looked at
//	0
//
// The NAR comes before anything that says what it is. A [Reader] therefore hands
// it over to a writer before it gives the path info; a [Source] spools it in a
// file, and is an [store.ObjectSource].
//
// Nothing in a stream vouches for it: there are no signatures and no hashes, so
// only trusted users may import what is not content-addressed.
//
// Source of the format: by looking at what `nix-store --export` of Nix 2.34.8
// writes; src/libstore/export-import.cc there.
package export

import (
	"errors"
	"fmt"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
)

const (
	objectFollows = 1
	end           = 0
	magic         = 0x4558494e
)

// Limits on what a stream may hold; NARs have no limit.
const (
	maxPath       = 4096    // bytes of a path in full
	maxReferences = 1 << 20 // of one object
	maxSignature  = 1 << 16 // bytes of the signature that is not looked at
)

// ErrFormat is the cause of every error about bytes that are no export.
var ErrFormat = errors.New("malformed export")

// FormatError says where a stream is wrong.
type FormatError struct {
	Object int    // number of the object, from 1
	Path   string // of the object in full, "" if that is not known yet
	Offset int64  // bytes of the stream that have been read
	Why    string
	Err    error // may be nil
}

func (e *FormatError) Error() string {
	s := fmt.Sprintf("object %d of the export", e.Object)
	if e.Path != "" {
		s += " ('" + e.Path + "')"
	}
	s += fmt.Sprintf(", byte %d: %s", e.Offset, e.Why)
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

// ChangedError says that an object is not what its path info says, and so has
// not been exported.
type ChangedError struct {
	Path      string // in full
	Want, Got nixhash.Hash
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("hash of path '%s' has changed from '%s' to '%s'!", e.Path, e.Want.Text(nixhash.Nix32), e.Got.Text(nixhash.Nix32))
}

// Unwrap makes it a store.ErrMismatch.
func (e *ChangedError) Unwrap() error { return store.ErrMismatch }
