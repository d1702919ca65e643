// Package nixhash has the hashes of Nix in all their spellings.
//
// A [Hash] is an algorithm and a digest; it is comparable, and its zero value
// means "no hash". The spellings are base16 (lower-case hex), nix32 (Nix's own
// base 32, digits in reverse order), base64, and SRI ("sha256-…"). All but SRI
// may carry the algorithm as a prefix with a colon.
//
// Source of the formats: the Nix manual, "Store Path Specification" and
// "nix hash"; alphabet and digit order as the nix32 section says.
package nixhash

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
)

// ErrFormat is the cause of every error about a text that is not a hash.
var ErrFormat = errors.New("malformed hash")

// Hash is a digest with its algorithm.
type Hash struct {
	algo   Algorithm
	digest [maxSize]byte
}

// Format is a spelling of a hash.
type Format uint8

// The spellings.
const (
	Base16 Format = iota
	Nix32
	Base64
	SRI
)

// New makes a Hash of a finished digest. It fails when the length is not the
// algorithm's.
func New(a Algorithm, digest []byte) (Hash, error) {
	if a == None || len(digest) != a.Size() {
		return Hash{}, fmt.Errorf("%w: %d bytes are no %s digest", ErrFormat, len(digest), a)
	}
	h := Hash{algo: a}
	copy(h.digest[:], digest)
	return h, nil
}

// Sum takes the digest of what has been written to w, which algorithm a made.
func Sum(a Algorithm, w hash.Hash) Hash {
	h := Hash{algo: a}
	w.Sum(h.digest[:0])
	return h
}

// Of hashes a text.
func Of(a Algorithm, data string) Hash {
	w := a.New()
	_, _ = io.WriteString(w, data) // hash.Hash never fails
	return Sum(a, w)
}

// IsZero tells that there is no hash.
func (h Hash) IsZero() bool { return h.algo == None }

// Algorithm tells which algorithm made the digest.
func (h Hash) Algorithm() Algorithm { return h.algo }

// Bytes is a copy of the digest.
func (h Hash) Bytes() []byte { return append([]byte(nil), h.digest[:h.algo.Size()]...) }

// Digest spells the digest without the algorithm (SRI has it always).
func (h Hash) Digest(f Format) string {
	d := h.digest[:h.algo.Size()]
	switch f {
	case Nix32:
		return EncodeNix32(d)
	case Base64:
		return base64.StdEncoding.EncodeToString(d)
	case SRI:
		return h.algo.String() + "-" + base64.StdEncoding.EncodeToString(d)
	default:
		return hex.EncodeToString(d)
	}
}

// Text spells the hash with its algorithm: "sha256:…", or SRI.
func (h Hash) Text(f Format) string {
	if f == SRI {
		return h.Digest(SRI)
	}
	return h.algo.String() + ":" + h.Digest(f)
}

// String is the spelling of people's eyes: SRI, and "" for no hash.
func (h Hash) String() string {
	if h.IsZero() {
		return ""
	}
	return h.Digest(SRI)
}

// MarshalText writes SRI.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads any spelling that names its algorithm.
func (h *Hash) UnmarshalText(text []byte) error {
	v, err := Parse(string(text))
	if err == nil {
		*h = v
	}
	return err
}

// Parse reads any spelling that names its algorithm: "sha256:…" or SRI.
func Parse(s string) (Hash, error) { return ParseAny(s, None) }

// ParseAny reads any spelling. Where the text names no algorithm, it is a; where
// it names one and a is not None, both must agree.
func ParseAny(s string, a Algorithm) (Hash, error) {
	rest, sri := s, false
	named := None
	name, after, found := strings.Cut(s, ":")
	if !found {
		name, after, found = strings.Cut(s, "-")
		sri = found
	}
	if found {
		var err error
		if named, err = ParseAlgorithm(name); err != nil {
			return Hash{}, err
		}
		rest = after
	}
	switch {
	case named == None && a == None:
		return Hash{}, fmt.Errorf("%w: hash '%s' does not include a type, nor is the type otherwise known from context", ErrFormat, clip(s))
	case named != None && a != None && named != a:
		return Hash{}, fmt.Errorf("%w: hash '%s' should have type '%s'", ErrFormat, clip(s), a)
	case named == None:
		named = a
	}
	if sri {
		return parseBase64(rest, named)
	}
	return ParseDigest(rest, named)
}

// ParseDigest reads a digest without its algorithm; the length says which
// spelling it is.
func ParseDigest(s string, a Algorithm) (Hash, error) {
	size := a.Size()
	switch len(s) {
	case hex.EncodedLen(size):
		h := Hash{algo: a}
		if _, err := hex.Decode(h.digest[:size], []byte(s)); err != nil {
			return Hash{}, fmt.Errorf("%w: '%s' is not base16", ErrFormat, clip(s))
		}
		return h, nil
	case Nix32Len(size):
		d, err := DecodeNix32(s)
		if err != nil {
			return Hash{}, err
		}
		return New(a, d)
	case base64.StdEncoding.EncodedLen(size):
		return parseBase64(s, a)
	}
	return Hash{}, fmt.Errorf("%w: hash '%s' has wrong length for hash algorithm '%s'", ErrFormat, clip(s), a)
}

func parseBase64(s string, a Algorithm) (Hash, error) {
	// Nix takes SRI with and without the padding that it writes itself.
	d, err := base64.RawStdEncoding.Strict().DecodeString(strings.TrimRight(s, "="))
	if err != nil || len(s) > base64.StdEncoding.EncodedLen(a.Size()) {
		return Hash{}, fmt.Errorf("%w: '%s' is not a base64 %s hash", ErrFormat, clip(s), a)
	}
	return New(a, d)
}

// clip keeps a hostile text from filling a log.
func clip(s string) string {
	const limit = 160
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}
