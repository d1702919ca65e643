package lease

import (
	"errors"
	"fmt"
)

// Errors by what whoever gets them must do.
var (
	// ErrNoTerms: the place is not one for leases, or is not there: its owner has to
	// say so first, or a file system is not mounted.
	ErrNoTerms = errors.New("is no place for leases")
	// ErrFormat: bytes that should be a lease are none.
	ErrFormat = errors.New("malformed lease")
	// ErrUnreadable: a lease cannot be read, so that nobody knows what it keeps.
	ErrUnreadable = errors.New("cannot be read")
	// ErrConflict: another consumer publishes under the same name.
	ErrConflict = errors.New("is published by another consumer")
	// ErrGone: the lower has lost what was to be leaned on.
	ErrGone = errors.New("is not valid in the lower store any more")
)

// FormatError says what is wrong with the bytes of a lease.
type FormatError struct{ Why string }

func (e *FormatError) Error() string { return "malformed lease: " + e.Why }

// Unwrap makes it an ErrFormat.
func (e *FormatError) Unwrap() error { return ErrFormat }

func malformed(format string, args ...any) error {
	return &FormatError{Why: fmt.Sprintf(format, args...)}
}

// UnreadableError names a lease that cannot be read. What it keeps alive is
// unknown, so nothing must be collected.
type UnreadableError struct {
	Place, Name string
	Err         error
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("lease '%s' in '%s' cannot be read: %v", e.Name, e.Place, e.Err)
}

// Unwrap makes it an ErrUnreadable, besides its cause.
func (e *UnreadableError) Unwrap() []error { return []error{ErrUnreadable, e.Err} }

// ConflictError says who else publishes under a name.
type ConflictError struct {
	Place, Consumer string
	Holder          string // who has it
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("lease '%s' in '%s' is that of %s; give this consumer another name, or drop that lease", e.Consumer, e.Place, e.Holder)
}

// Unwrap makes it an ErrConflict.
func (e *ConflictError) Unwrap() error { return ErrConflict }
