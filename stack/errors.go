package stack

import (
	"errors"
	"fmt"
	"strings"

	"github.com/strata-nix/strata/internal/mount"
)

// Errors by what whoever gets them must do. Types below say more.
var (
	// ErrNotUp: no such stack is up.
	ErrNotUp = errors.New("is not up")
	// ErrInUse: another process has the upper.
	ErrInUse = errors.New("is in use")
	// ErrNoUpper: nothing was ever written where the upper should be.
	ErrNoUpper = errors.New("there is no upper")
	// ErrLower: a lower is not there, or not what it should be.
	ErrLower = errors.New("lower store cannot be used")
)

// LowerError says which lower is not there, or not what it should be.
type LowerError struct {
	Lower string // its name
	Given string // path or URI
	Why   string
	Err   error // may be nil
	// Absent tells that it may yet come: a file system that is not mounted, a daemon
	// that has not started.
	Absent bool
}

func (e *LowerError) Error() string {
	s := fmt.Sprintf("lower '%s' (%s): %s", e.Lower, e.Given, e.Why)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap makes it an ErrLower.
func (e *LowerError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrLower}
	}
	return []error{ErrLower, e.Err}
}

// InUseError says who has an upper that was to be used.
type InUseError struct {
	Upper string
	By    []string // "process 17 (strata)", …
	Why   string   // what they do with it
}

func (e *InUseError) Error() string {
	s := fmt.Sprintf("upper '%s' is in use: %s", e.Upper, e.Why)
	if len(e.By) > 0 {
		s += " by " + strings.Join(e.By, ", ")
	}
	return s
}

// Unwrap makes it an ErrInUse.
func (e *InUseError) Unwrap() error { return ErrInUse }

// LeftoverError is a mount that cannot be taken down. It stays, with its record.
type LeftoverError struct {
	Role, Target string
	// Earlier tells that an earlier run made it, and that it is in the way of this one.
	Earlier bool
	Err     error
}

func (e *LeftoverError) Error() string {
	s := fmt.Sprintf("the %s stays mounted at '%s': %v", e.Role, e.Target, e.Err)
	if e.Earlier {
		s = fmt.Sprintf("the %s of an earlier run is mounted at '%s', and has to go: %v", e.Role, e.Target, e.Err)
	}
	var busy *mount.BusyError
	if errors.As(e.Err, &busy) {
		s += "; end what uses it, or detach it with 'strata down --lazy'"
	}
	return s
}

// Unwrap gives the cause.
func (e *LeftoverError) Unwrap() error { return e.Err }

// CoverError is a directory that would be hidden by a mount although there is
// something in it.
type CoverError struct {
	Role, Target string
	Holds        string // one of its entries
}

func (e *CoverError) Error() string {
	return fmt.Sprintf("mounting the %s would hide what is in '%s', such as '%s'; choose another place with 'root' or 'mount', or allow it with 'cover'",
		e.Role, e.Target, e.Holds)
}
