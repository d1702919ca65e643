package storepath

import (
	"errors"
	"fmt"
	"slices"

	"github.com/strata-nix/strata/nixhash"
)

// ErrReferences says that the method of a content address does not allow the
// references.
var ErrReferences = errors.New("references not allowed")

// References of an object whose own path is still to be computed: the others,
// and whether it refers to itself.
type References struct {
	Others []Path
	Self   bool
}

// WithoutSelf splits the references of p in those two.
func WithoutSelf(p Path, refs []Path) References {
	out := References{Others: make([]Path, 0, len(refs))}
	for _, r := range refs {
		if r == p {
			out.Self = true
		} else {
			out.Others = append(out.Others, r)
		}
	}
	return out
}

// Make computes the store path of a content-addressed object.
func (d Dir) Make(name string, ca ContentAddress, refs References) (Path, error) {
	switch {
	case ca.Method == Text:
		if ca.Hash.Algorithm() != nixhash.SHA256 {
			return Path{}, fmt.Errorf("%w: text is addressed by sha256, not %s", ErrFormat, ca.Hash.Algorithm())
		}
		if refs.Self {
			return Path{}, fmt.Errorf("%w: self-reference not allowed with text hashing", ErrReferences)
		}
		return d.make(d.typed("text", refs), ca.Hash, name)
	case ca.Method == Recursive && ca.Hash.Algorithm() == nixhash.SHA256:
		return d.make(d.typed("source", refs), ca.Hash, name)
	}
	if ca.Method == Git && ca.Hash.Algorithm() != nixhash.SHA1 && ca.Hash.Algorithm() != nixhash.SHA256 {
		return Path{}, fmt.Errorf("%w: Git file ingestion must use SHA-1 or SHA-256 hash, but instead using: %s", ErrFormat, ca.Hash.Algorithm())
	}
	if refs.Self || len(refs.Others) > 0 {
		return Path{}, fmt.Errorf("%w: '%s', addressed by its %s %s hash, is not allowed to refer to other store paths",
			ErrReferences, name, ca.Method, ca.Hash.Algorithm())
	}
	// The prefix here is the old one, without "fixed:".
	inner := "fixed:out:" + ca.Method.prefix()[len("fixed:"):] + ca.Hash.Text(nixhash.Base16) + ":"
	return d.make("output:out", nixhash.Of(nixhash.SHA256, inner), name)
}

// MakeOutput computes the path of output id of an input-addressed derivation
// from the hash of the derivation modulo its fixed-output inputs. drvName is
// the derivation's name without ".drv".
func (d Dir) MakeOutput(id string, drvHash nixhash.Hash, drvName string) (Path, error) {
	return d.make("output:"+id, drvHash, OutputName(drvName, id))
}

// OutputName is the name of the object that is output id of a derivation.
func OutputName(drvName, id string) string {
	if id == "out" {
		return drvName
	}
	return drvName + "-" + id
}

// Fingerprint computes a path from a type, a hash and a name as they are: for
// what has a rule of its own (placeholders, temporary paths).
func (d Dir) Fingerprint(kind string, h nixhash.Hash, name string) (Path, error) {
	return d.make(kind, h, name)
}

func (d Dir) make(kind string, h nixhash.Hash, name string) (Path, error) {
	s := kind + ":" + h.Text(nixhash.Base16) + ":" + string(d) + ":" + name
	return FromParts(nixhash.Compress(nixhash.Of(nixhash.SHA256, s).Bytes(), 20), name)
}

// typed puts the references in the type, sorted by their full text.
func (d Dir) typed(kind string, refs References) string {
	others := slices.Clone(refs.Others)
	for _, r := range SortUnique(others) {
		kind += ":" + d.Print(r)
	}
	if refs.Self {
		kind += ":self"
	}
	return kind
}
