package sandbox

import (
	"errors"
	"fmt"
	"strings"
)

// ErrNoneFree says that all build users are busy.
var ErrNoneFree = errors.New("all build users are in use")

// ExecError says that the sandbox stood and the builder could not be executed in it.
type ExecError struct {
	Path string
	Err  error // usually a syscall.Errno
}

func (e *ExecError) Error() string { return fmt.Sprintf("executing '%s': %v", e.Path, e.Err) }

func (e *ExecError) Unwrap() error { return e.Err }

// SetupError says which step of the way to the builder failed.
type SetupError struct {
	Step string // such as "mount /nix/store/… at /nix/store/…"
	Err  error
}

func (e *SetupError) Error() string {
	return fmt.Sprintf("setting up the build environment: %s: %v", e.Step, e.Err)
}

func (e *SetupError) Unwrap() error { return e.Err }

// Missing is something that a sandbox needs and this machine does not give.
type Missing struct {
	Part   string // "bubblewrap", "user namespaces", …
	Reason string // what was found
	Advice string // what to do about it
}

func (m Missing) String() string {
	s := m.Part + ": " + m.Reason
	if m.Advice != "" {
		s += " (" + m.Advice + ")"
	}
	return s
}

// UnavailableError says that this machine cannot isolate builders, and why.
type UnavailableError struct {
	Missing []Missing
}

func (e *UnavailableError) Error() string {
	parts := make([]string, len(e.Missing))
	for i, m := range e.Missing {
		parts[i] = m.String()
	}
	return "this machine cannot run builds in a sandbox: " + strings.Join(parts, "; ")
}
