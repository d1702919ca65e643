package stack

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/overlayfs"
)

// DownOptions say how hard to try.
type DownOptions struct {
	// Lazy detaches mounts that are busy.
	Lazy bool
}

// Down ends the process that serves a stack, and removes what it left behind, or
// what an earlier one did. It waits for the process for as long as ctx lasts.
// [ErrNotUp] says that there was nothing to do.
func Down(ctx context.Context, r *Run, o DownOptions) error {
	up, err := r.Up()
	if err != nil {
		return fmt.Errorf("stack '%s': process %d: %w", r.Name, r.Process.PID, err)
	}
	if up {
		if err := r.Process.end(ctx, unix.SIGTERM); err != nil {
			return fmt.Errorf("stack '%s': %w", r.Name, err)
		}
	}
	return clearUp(ctx, r.Dir, up, o)
}

// clearUp removes what a process left that has ended.
func clearUp(ctx context.Context, dir string, wasUp bool, o DownOptions) error {
	lock, err := flock.Open(filepath.Join(dir, lockFile))
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := lock.Lock(ctx, flock.Exclusive, nil); err != nil {
		return err
	}
	r, err := FindUpper(dir)
	if errors.Is(err, ErrNotUp) && wasUp {
		return nil // it has left nothing
	}
	if err != nil {
		return err
	}
	left, detached, err := releaseAll(ctx, r.Mounts, o.Lazy)
	r.Mounts, r.Detached = left, append(r.Detached, detached...)
	return errors.Join(err, r.leave())
}

// mounts is a copy of the list.
func (r *Run) mounts() []Mounted { return append([]Mounted{}, r.Mounts...) }

// leave writes down what is left of a stack that is down, if there is anything,
// and else forgets it.
func (r *Run) leave() error {
	var used []overlayfs.Record
	for _, d := range r.Detached {
		if len(usersOf(d)) > 0 {
			used = append(used, d)
		}
	}
	r.Detached, r.Sockets = used, nil
	crashpoint.Reached("stack: all taken down")
	if len(r.Mounts)+len(r.Detached) == 0 {
		return r.forget()
	}
	r.Process = Process{}
	return r.save()
}

// releaseAll takes mounts down, last first. It goes on after an error with those
// that do not lie beneath what is left.
func releaseAll(ctx context.Context, all []Mounted, lazy bool) (left []Mounted, detached []overlayfs.Record, err error) {
	for i := len(all) - 1; i >= 0; i-- {
		m := all[i]
		if beneath(m, left) {
			left = append([]Mounted{m}, left...)
			continue
		}
		wasDetached, relErr := release(ctx, m, lazy)
		crashpoint.Reached("stack: taken down: " + m.Role)
		if relErr != nil {
			err = errors.Join(err, &LeftoverError{Role: m.Role, Target: m.Given, Err: relErr})
			left = append([]Mounted{m}, left...)
		} else if wasDetached && m.Role == roleStore {
			detached = append(detached, m.Record)
		}
	}
	return left, detached, err
}

// beneath tells whether a mount is used by one of others, or holds its place.
func beneath(m Mounted, others []Mounted) bool {
	for _, o := range others {
		if strings.HasPrefix(o.Record.Target, m.Record.Target+"/") || o.Role == roleStore && m.Role != roleStore {
			return true
		}
	}
	return false
}
