package store

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// PathInfo is what a store knows about a valid path.
type PathInfo struct {
	Path       storepath.Path
	Deriver    storepath.Path           // zero: unknown
	NarHash    nixhash.Hash             // of the object's NAR, SHA-256
	NarSize    uint64                   // bytes of the NAR; 0: unknown
	References []storepath.Path         // sorted, no doubles; holds Path itself if the object refers to itself
	Registered int64                    // when it became valid here, in seconds since 1970; 0: unknown
	Ultimate   bool                     // built here, so trusted without a signature
	Signatures []Signature              // sorted, no doubles
	CA         storepath.ContentAddress // zero: not content-addressed
}

// Fingerprint is the text that signatures sign.
// Source: the Nix manual, "Signature": "1;path;hash;size;references".
func (i *PathInfo) Fingerprint(dir storepath.Dir) (string, error) {
	if i.NarSize == 0 || i.NarHash.IsZero() {
		return "", fmt.Errorf("cannot calculate fingerprint of path '%s' because its size or hash is not known", dir.Print(i.Path))
	}
	refs := strings.Join(dir.PrintAll(i.References), ",")
	return "1;" + dir.Print(i.Path) + ";" + i.NarHash.Text(nixhash.Nix32) + ";" + strconv.FormatUint(i.NarSize, 10) + ";" + refs, nil
}

// IsContentAddressed tells whether the path really follows from the content
// address and the references. It says nothing about the contents.
func (i *PathInfo) IsContentAddressed(dir storepath.Dir) bool {
	if i.CA.IsZero() {
		return false
	}
	p, err := dir.Make(i.Path.Name(), i.CA, storepath.WithoutSelf(i.Path, i.References))
	return err == nil && p == i.Path
}

// Clone makes a copy that may be changed.
func (i *PathInfo) Clone() *PathInfo {
	c := *i
	c.References = append([]storepath.Path(nil), i.References...)
	c.Signatures = append([]Signature(nil), i.Signatures...)
	return &c
}

// ErrSignatureFormat is the cause of every error about a text that is not a
// signature.
var ErrSignatureFormat = errors.New("malformed signature")

// Signature is "<key name>:<base64 of an Ed25519 signature>".
type Signature string

// ParseSignature checks the form of a signature, not whether it holds.
func ParseSignature(s string) (Signature, error) {
	name, sig, ok := strings.Cut(s, ":")
	if !ok || name == "" || sig == "" || strings.ContainsAny(s, " \t\n\x00") {
		return "", fmt.Errorf("%w: '%.200s' is not '<key name>:<base64>'", ErrSignatureFormat, s)
	}
	return Signature(s), nil
}

// KeyName is what stands before the colon.
func (s Signature) KeyName() string {
	name, _, _ := strings.Cut(string(s), ":")
	return name
}
