// Package storepath has store paths, store directories, content addresses, and
// the computation that leads from one to the other.
//
// A [Path] is the last component of a store path, "<hash part>-<name>"; where
// it lies is the business of a [Dir], the store directory that it is printed
// against. Both are parsed once, at the edge.
//
// Source: the Nix manual, "Store Path Specification" and "Content-addressing
// store objects".
package storepath

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/strata-nix/strata/nixhash"
)

// Lengths in bytes.
const (
	HashPartLen = 32  // digits of the hash part
	MaxNameLen  = 211 // of the name after the hash part and its dash
)

// DerivationSuffix ends the name of a store derivation.
const DerivationSuffix = ".drv"

// ErrFormat is the cause of every error about a text that is not a store path,
// a store directory or a content address.
var ErrFormat = errors.New("malformed store path")

// FormatError says what is wrong with a text.
type FormatError struct {
	Text string // as it was given, clipped
	Why  string
}

func (e *FormatError) Error() string { return fmt.Sprintf("path '%s' %s", e.Text, e.Why) }

// Unwrap makes it an ErrFormat.
func (e *FormatError) Unwrap() error { return ErrFormat }

func malformed(text, why string, args ...any) error {
	const limit = 300
	if len(text) > limit {
		text = text[:limit] + "…"
	}
	return &FormatError{Text: text, Why: fmt.Sprintf(why, args...)}
}

// Path is a store path without its store directory. It is comparable; the zero
// value means "no path".
type Path struct{ base string }

// ParseBase reads "<hash part>-<name>".
func ParseBase(base string) (Path, error) {
	if err := checkBase(base); err != nil {
		return Path{}, err
	}
	return Path{base: strings.Clone(base)}, nil
}

func checkBase(base string) error {
	if len(base) < HashPartLen+1 || base[HashPartLen] != '-' {
		if len(base) <= HashPartLen+1 {
			return malformed(base, "is not a valid store path: too short")
		}
		return malformed(base, "is not a valid store path: no dash after the %d digits of the hash part", HashPartLen)
	}
	if err := CheckHashPart(base[:HashPartLen]); err != nil {
		return malformed(base, "is not a valid store path: %v", err)
	}
	if why := nameFault(base[HashPartLen+1:]); why != "" {
		return malformed(base, "is not a valid store path: %s", why)
	}
	return nil
}

// FromParts puts a 20-byte hash and a name together.
func FromParts(hash []byte, name string) (Path, error) {
	if why := nameFault(name); why != "" {
		return Path{}, malformed(name, "cannot name a store object: %s", why)
	}
	return Path{base: nixhash.EncodeNix32(hash) + "-" + name}, nil
}

// CheckHashPart refuses what cannot be the hash part of a store path.
func CheckHashPart(s string) error {
	if len(s) != HashPartLen {
		return fmt.Errorf("%w: hash part '%.64s' has not %d digits", ErrFormat, s, HashPartLen)
	}
	if !nixhash.IsNix32(s) {
		return fmt.Errorf("%w: hash part '%s' has a digit that is not base-32", ErrFormat, s)
	}
	return nil
}

// CheckName refuses what cannot be the name of a store object.
func CheckName(name string) error {
	if why := nameFault(name); why != "" {
		return malformed(name, "cannot name a store object: %s", why)
	}
	return nil
}

// nameFault says what is wrong with a name, "" for nothing.
func nameFault(name string) string {
	switch {
	case name == "":
		return "name must not be empty"
	case len(name) > MaxNameLen:
		return fmt.Sprintf("name '%s' must be no longer than %d characters", name, MaxNameLen)
	case name == "." || name == "..":
		return fmt.Sprintf("name '%s' is not valid", name)
	}
	if first, _, dashed := strings.Cut(name, "-"); dashed && (first == "." || first == "..") {
		return fmt.Sprintf("name '%s' is not valid: first dash-separated component must not be '%s'", name, first)
	}
	for i := range len(name) {
		if !nameByte[name[i]] {
			c, _ := utf8.DecodeRuneInString(name[i:])
			return fmt.Sprintf("name '%s' contains illegal character %q", name, c)
		}
	}
	return ""
}

var nameByte = func() (t [256]bool) {
	for _, c := range "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-._?=" {
		t[c] = true
	}
	return t
}()

// IsZero tells that there is no path.
func (p Path) IsZero() bool { return p.base == "" }

// Base is "<hash part>-<name>", the name of the object in the store directory.
func (p Path) Base() string { return p.base }

// String is Base.
func (p Path) String() string { return p.base }

// HashPart is the first 32 digits.
func (p Path) HashPart() string {
	if p.base == "" {
		return ""
	}
	return p.base[:HashPartLen]
}

// Name is what follows the hash part and its dash.
func (p Path) Name() string {
	if p.base == "" {
		return ""
	}
	return p.base[HashPartLen+1:]
}

// IsDerivation tells whether the path is that of a store derivation.
func (p Path) IsDerivation() bool { return strings.HasSuffix(p.Name(), DerivationSuffix) }

// Compare orders paths as their texts.
func Compare(a, b Path) int { return cmp.Compare(a.base, b.base) }
