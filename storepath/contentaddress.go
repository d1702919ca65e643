package storepath

import (
	"fmt"
	"strings"

	"github.com/strata-nix/strata/nixhash"
)

// Method is how a file system object becomes the bytes whose hash addresses it.
type Method uint8

// The methods, as the manual names them.
const (
	Text      Method = iota + 1 // one file, referring to other store objects, SHA-256 only
	Flat                        // one file, no references
	Recursive                   // the NAR of a tree ("nar")
	Git                         // the Git object of a tree or file (experimental)
)

// prefix is the method inside of a content address.
func (m Method) prefix() string {
	switch m {
	case Text:
		return "text:"
	case Recursive:
		return "fixed:r:"
	case Git:
		return "fixed:git:"
	default:
		return "fixed:"
	}
}

// String is the method's name in JSON and on the command line.
func (m Method) String() string {
	switch m {
	case Text:
		return "text"
	case Recursive:
		return "nar"
	case Git:
		return "git"
	case Flat:
		return "flat"
	default:
		return "none"
	}
}

// ParseMethod reads the name of a method: flat, nar (or recursive), text, git.
func ParseMethod(s string) (Method, error) {
	switch s {
	case "flat":
		return Flat, nil
	case "nar", "recursive":
		return Recursive, nil
	case "text":
		return Text, nil
	case "git":
		return Git, nil
	}
	return 0, fmt.Errorf("%w: unknown content addressing method '%.40s', expect 'flat', 'nar', 'text', or 'git'", ErrFormat, s)
}

// Spec is a method and a hash algorithm: how something is to be addressed whose
// hash is not known yet.
type Spec struct {
	Method    Method
	Algorithm nixhash.Algorithm
}

// String spells it as the worker protocol does: "fixed:r:sha256", "text:sha256".
func (s Spec) String() string { return s.Method.prefix() + s.Algorithm.String() }

// ParseSpec is the inverse of String.
func ParseSpec(text string) (Spec, error) {
	s, rest, err := cutSpec(text + ":")
	if err == nil && rest != "" {
		err = fmt.Errorf("%w: content address method '%.80s' has something after the algorithm", ErrFormat, text)
	}
	return s, err
}

// ContentAddress is the claim that a store object's path follows from its
// contents. It is comparable; the zero value means "not content-addressed".
type ContentAddress struct {
	Method Method
	Hash   nixhash.Hash
}

// IsZero tells that there is none.
func (ca ContentAddress) IsZero() bool { return ca.Method == 0 }

// String spells it as narinfos and the database do: "fixed:r:sha256:<nix32>",
// "" for none.
func (ca ContentAddress) String() string {
	if ca.IsZero() {
		return ""
	}
	return ca.Method.prefix() + ca.Hash.Text(nixhash.Nix32)
}

// MarshalText is String.
func (ca ContentAddress) MarshalText() ([]byte, error) { return []byte(ca.String()), nil }

// ParseContentAddress is the inverse of String; "" is none.
func ParseContentAddress(text string) (ContentAddress, error) {
	if text == "" {
		return ContentAddress{}, nil
	}
	s, rest, err := cutSpec(text)
	if err != nil {
		return ContentAddress{}, err
	}
	h, err := nixhash.ParseDigest(rest, s.Algorithm)
	if err != nil {
		return ContentAddress{}, fmt.Errorf("%w: content address '%.160s': %w", ErrFormat, text, err)
	}
	return ContentAddress{Method: s.Method, Hash: h}, nil
}

// cutSpec reads up to and with the colon behind the algorithm.
func cutSpec(text string) (Spec, string, error) {
	kind, rest, ok := strings.Cut(text, ":")
	if !ok {
		return Spec{}, "", fmt.Errorf("%w: not a content address because it is not in the form '<prefix>:<rest>': %.160s", ErrFormat, text)
	}
	var s Spec
	switch kind {
	case "text":
		s.Method = Text
	case "fixed":
		s.Method = Flat
		if r, ok := strings.CutPrefix(rest, "r:"); ok {
			s.Method, rest = Recursive, r
		} else if r, ok := strings.CutPrefix(rest, "git:"); ok {
			s.Method, rest = Git, r
		}
	default:
		return Spec{}, "", fmt.Errorf("%w: content address prefix '%.40s' is unrecognized, expect 'text' or 'fixed'", ErrFormat, kind)
	}
	algo, rest, ok := strings.Cut(rest, ":")
	if !ok {
		return Spec{}, "", fmt.Errorf("%w: content address hash must be in form '<algo>:<hash>', but found: %.160s", ErrFormat, text)
	}
	var err error
	s.Algorithm, err = nixhash.ParseAlgorithm(algo)
	if err != nil {
		return Spec{}, "", fmt.Errorf("%w: content address '%.160s': %w", ErrFormat, text, err)
	}
	return s, rest, nil
}
