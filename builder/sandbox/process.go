package sandbox

import (
	"context"
	"errors"
	"syscall"
	"time"
)

// Exit is how a builder ended.
type Exit struct {
	// Status is that of the builder's first process.
	Status syscall.WaitStatus
	// Killed tells that we killed it: by Kill, or because its context ended.
	Killed bool
	// User and System are CPU time: of all processes if the build had a cgroup,
	// otherwise of those that somebody waited for.
	User, System time.Duration
}

// Process is a builder that has been started. Its methods may be called by any
// goroutine.
type Process struct{}

// Start runs a builder. It returns when the program has been executed, with an
// [*ExecError] if it could not be, and with another error if it did not come to
// that; then nothing is left of it. When ctx ends the builder is killed. Wait
// must be called.
func Start(ctx context.Context, s Spec) (*Process, error) { return nil, errors.ErrUnsupported }

// Wait waits until the builder has ended and nothing is left of it. An error says
// that something may be left, or that it is not known how it ended. It may be
// called more than once.
func (p *Process) Wait() (Exit, error) { return Exit{}, errors.ErrUnsupported }

// Kill ends the builder and all that belongs to it. It does not wait; it may
// be called more than once, and after the end.
func (p *Process) Kill() {}

// Show makes another file or directory visible in the sandbox, read-only, at a
// place within an [Own] mount that was not there yet. It returns when it is to be seen.
func (p *Process) Show(ctx context.Context, source, target string) error {
	return errors.ErrUnsupported
}
