package store

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// Errors by what whoever gets them must do. Types below say more.
var (
	// ErrNotValid: a path that had to be valid is not.
	ErrNotValid = errors.New("path is not valid")
	// ErrUnsupported: this store cannot do that at all.
	ErrUnsupported = errors.New("operation not supported")
	// ErrReadOnly: the store is open for reading only.
	ErrReadOnly = errors.New("store is read-only")
	// ErrNotPrivileged: only a trusted user may do that.
	ErrNotPrivileged = errors.New("not privileged")
	// ErrNoSignature: no trusted key has signed the object.
	ErrNoSignature = errors.New("no trusted signature")
	// ErrMismatch: bytes are not those that were promised.
	ErrMismatch = errors.New("contents differ from what was promised")
	// ErrAlive: the path cannot be deleted, something needs it.
	ErrAlive = errors.New("path is still alive")
	// ErrNoLog: there is no build log.
	ErrNoLog = errors.New("no build log")
	// ErrDamaged: the store itself is broken where it was needed.
	ErrDamaged = errors.New("store is damaged")
	// ErrInconclusive: that something was not got does not say that nobody has it. Somebody
	// could not be asked, or there was no room for it. See [Inconclusive].
	ErrInconclusive = errors.New("it may be to be had all the same")
)

// Inconclusive makes an error an [ErrInconclusive], too. Its text stays.
func Inconclusive(err error) error {
	if err == nil {
		return nil
	}
	return inconclusive{err}
}

type inconclusive struct{ error }

func (e inconclusive) Unwrap() []error { return []error{e.error, ErrInconclusive} }

// InvalidPathError says which path is not valid.
type InvalidPathError struct {
	Path string // in full
	// By is the path that refers to it, if that is why it matters.
	By string
}

func (e *InvalidPathError) Error() string {
	if e.By != "" {
		return fmt.Sprintf("cannot add path '%s' because its reference '%s' is not valid: path '%s' is not valid", e.By, e.Path, e.Path)
	}
	return fmt.Sprintf("path '%s' is not valid", e.Path)
}

// Unwrap makes it an ErrNotValid.
func (e *InvalidPathError) Unwrap() error { return ErrNotValid }

// UnsupportedError says what cannot be done where.
type UnsupportedError struct {
	Op    string // as its user knows it
	Store string // URI
	Why   string // optional
}

func (e *UnsupportedError) Error() string {
	s := fmt.Sprintf("operation '%s' is not supported by store '%s'", e.Op, e.Store)
	if e.Why != "" {
		s += ": " + e.Why
	}
	return s
}

// Unwrap makes it an ErrUnsupported.
func (e *UnsupportedError) Unwrap() error { return ErrUnsupported }

// SignatureError says which path lacks a signature.
type SignatureError struct{ Path string }

func (e *SignatureError) Error() string {
	return fmt.Sprintf("cannot add path '%s' because it lacks a signature by a trusted key", e.Path)
}

// Unwrap makes it an ErrNoSignature.
func (e *SignatureError) Unwrap() error { return ErrNoSignature }

// PartialError says of which paths of a set there is no answer, and why. The
// answers for the others have been given along with it. That there is none does not
// mean that a path is not valid: who cannot do with less than all of them
// takes it as any other error.
type PartialError struct {
	Errs map[storepath.Path]error
}

func (e *PartialError) Error() string {
	paths := slices.SortedFunc(maps.Keys(e.Errs), storepath.Compare)
	if len(paths) == 0 {
		return "no answer"
	}
	s := e.Errs[paths[0]].Error()
	if n := len(paths) - 1; n > 0 {
		s += fmt.Sprintf(" (and %d more errors)", n)
	}
	return s
}

// Unwrap gives all causes.
func (e *PartialError) Unwrap() []error { return slices.Collect(maps.Values(e.Errs)) }

// HashMismatchError says which contents were promised and which came.
type HashMismatchError struct {
	What      string // "importing path '…'", "path '…'"
	Want, Got nixhash.Hash
}

func (e *HashMismatchError) Error() string {
	return fmt.Sprintf("hash mismatch %s;\n  specified: %s\n  got:       %s", e.What, e.Want.Text(nixhash.Nix32), e.Got.Text(nixhash.Nix32))
}

// Unwrap makes it an ErrMismatch.
func (e *HashMismatchError) Unwrap() error { return ErrMismatch }

// SizeMismatchError says how many bytes were promised and how many came.
type SizeMismatchError struct {
	What      string
	Want, Got uint64
}

func (e *SizeMismatchError) Error() string {
	return fmt.Sprintf("size mismatch %s;\n  specified: %d\n  got:       %d", e.What, e.Want, e.Got)
}

// Unwrap makes it an ErrMismatch.
func (e *SizeMismatchError) Unwrap() error { return ErrMismatch }

// DamageError says which layer lost or changed what.
type DamageError struct {
	Layer string // "lower 1 (local?root=/base)"
	Path  string // in full
	Why   string
	Err   error // may be nil
}

func (e *DamageError) Error() string {
	s := fmt.Sprintf("%s: path '%s' is damaged: %s", e.Layer, e.Path, e.Why)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap makes it an ErrDamaged.
func (e *DamageError) Unwrap() []error { return []error{ErrDamaged, e.Err} }
