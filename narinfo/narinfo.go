// Package narinfo has the .narinfo files of binary caches: what a cache knows
// about a store object, and where it keeps the object's NAR; and their
// nix-cache-info, see [CacheInfo].
//
// Form of a .narinfo: lines "Name: value", each ended by a newline. StorePath, URL, NarHash
// and NarSize must be there; Sig may come several times; names that are not
// known are passed over, so that newer writers can say more.
//
//	StorePath: /nix/store/<hash part>-<name>
//	URL: nar/<file>            relative to the cache
//	Compression: xz            "none", "xz", "zstd", …; bzip2 if missing
//	FileHash: sha256:<nix32>   of the file at URL
//	FileSize: <bytes>
//	NarHash: sha256:<nix32>    of the NAR
//	NarSize: <bytes>
//	References: <base name> …  sorted
//	Deriver: <base name>       or unknown-deriver
//	Sig: <key name>:<base64>
//	CA: <content address>
//
// Source: the Nix manual, "Binary cache"; the order is the one in which Nix
// writes the fields.
package narinfo

import (
	"errors"
	"fmt"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
)

// MaxSize bounds the bytes of one file. The largest real ones, of objects with
// ten thousand references, have not a tenth of it.
const MaxSize = 8 << 20

// DefaultCompression is that of a file that names none.
const DefaultCompression = "bzip2"

// NarInfo is what a .narinfo says. It has neither Registered nor Ultimate: they
// are for a store to say.
type NarInfo struct {
	store.PathInfo
	// URL of the NAR, as it was written; see RelativeURL.
	URL string
	// Compression of the file at URL; "none" for none.
	Compression string
	// FileHash and FileSize are of the file at URL; zero if not known.
	FileHash nixhash.Hash
	FileSize uint64
}

// ErrFormat is the cause of every error about a text that is not a narinfo.
var ErrFormat = errors.New("malformed narinfo")

// SyntaxError says where a narinfo is wrong.
type SyntaxError struct {
	Kind string // what it should be; "": a narinfo
	File string // as it was named to Parse
	Line int    // from 1; 0 if it is about the whole
	Why  string
	Err  error // what is wrong with a value, or nil
}

func (e *SyntaxError) Error() string {
	kind := e.Kind
	if kind == "" {
		kind = "NAR info file"
	}
	s := fmt.Sprintf("%s '%s' is corrupt: %s", kind, e.File, e.Why)
	if e.Line > 0 {
		s += fmt.Sprintf(" at line %d", e.Line)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap makes it an ErrFormat.
func (e *SyntaxError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrFormat}
	}
	return []error{ErrFormat, e.Err}
}
