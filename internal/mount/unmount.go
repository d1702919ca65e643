package mount

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotMounted means that there is nothing to take down.
var ErrNotMounted = errors.New("not mounted")

// StateError means that the recorded mount is not what is visible at its
// target, so that nothing was unmounted.
type StateError struct {
	Target string
	State  State
}

func (e *StateError) Error() string {
	return fmt.Sprintf("will not unmount %q: the recorded mount is %s", e.Target, e.State)
}

// Is makes a recorded mount that is gone count as [ErrNotMounted].
func (e *StateError) Is(target error) bool {
	return target == ErrNotMounted && (e.State == Gone || e.State == Foreign)
}

// BusyError means that a mount could not be taken down because it is in use.
type BusyError struct {
	Target    string
	Holders   []Holder // processes found, at most MaxHolders; may be empty
	Submounts []string // mount points inside it
	Err       error    // EBUSY
}

func (e *BusyError) Error() string {
	var why []string
	for _, h := range e.Holders {
		why = append(why, h.String())
	}
	for _, m := range e.Submounts {
		why = append(why, fmt.Sprintf("mount at %q", m))
	}
	if len(why) == 0 {
		why = append(why, "no process found that uses it: it may be one that this user cannot look into, or a kernel user such as a loop device")
	}
	return fmt.Sprintf("unmount %q: %v: %s", e.Target, e.Err, strings.Join(why, "; "))
}

func (e *BusyError) Unwrap() error { return e.Err }

// Unmount takes down the mount that rec describes if, and only if, it is what
// is visible at its target. A busy mount is a [*BusyError]; with lazy it is
// detached instead: gone from the tree at once, alive for those who use it
// until the last of them ends.
//
// A mount that is not there is an error that is [ErrNotMounted]; one that is
// covered, moved or in another namespace is a [*StateError].
func Unmount(ctx context.Context, rec Record, lazy bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	state, err := rec.Recognise()
	if err != nil {
		return fmt.Errorf("unmount %q: %w", rec.Target, err)
	}
	if state != Mounted {
		return &StateError{Target: rec.Target, State: state}
	}
	return UnmountTop(ctx, rec.Target, lazy)
}

// UnmountTop takes down whatever is visible at target.
func UnmountTop(ctx context.Context, target string, lazy bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := unmount(target, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) && lazy {
		err = unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY):
		return busy(ctx, target, err)
	case errors.Is(err, unix.EINVAL):
		// Also the answer for a mount that a user namespace may not remove.
		if id, idErr := Identify(target); idErr == nil && id.Root {
			return fmt.Errorf("unmount %q: %w (the mount is locked: it came from a more privileged mount namespace)", target, err)
		}
		return fmt.Errorf("unmount %q: %w", target, ErrNotMounted)
	}
	return fmt.Errorf("unmount %q: %w", target, err)
}

func unmount(target string, flags int) error {
	for {
		err := unix.Unmount(target, flags)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// searchTime is how long is searched for those who keep a mount busy.
const searchTime = 2 * time.Second

// busy finds out who is in the way, as far as it can.
func busy(ctx context.Context, target string, cause error) error {
	e := &BusyError{Target: target, Err: cause}
	id, err := Identify(target)
	if err != nil {
		return e
	}
	subs, err := ReadTable(func(sub Entry) bool { return sub.Parent == id.Mount && sub.ID != id.Mount })
	if err == nil {
		for _, s := range subs {
			e.Submounts = append(e.Submounts, s.Target)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	e.Holders = Holders(ctx, id, target)
	return e
}
