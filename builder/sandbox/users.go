package sandbox

import (
	"context"
	"errors"
)

// Users are those who run builders: the members of a group, or ids that belong to
// nobody. Locks are where upstream has them, so that Nix processes on the same
// state directory and we keep off each other's users.
type Users struct {
	// StateDir is the state directory of the store; userpool and userpool2 lie in it.
	StateDir string
	// Group is "build-users-group". Its members are found in /etc/group, or by getent.
	Group string
	// Auto is "auto-allocate-uids": ids are taken from a range, and Group matters
	// only outside sandboxes. nil: they are not.
	Auto *IDRange
}

// IDRange is a range of user and group ids for builders.
type IDRange struct {
	Start uint32 // "start-id"
	Count uint32 // "id-count", a multiple of RangeSize
}

// Upstream's defaults of "start-id" and "id-count".
const (
	DefaultStartID = 872415232
	DefaultIDCount = RangeSize * 128
)

// Want says what a user is for.
type Want struct {
	Range    bool // RangeSize ids are needed and not one: the feature uid-range
	Isolated bool // the builder runs in a sandbox
}

// Enabled tells whether builders run as users of their own: this program is root,
// and there is a group or a range to take them from.
func (u Users) Enabled() bool { return false }

// TryAcquire takes a user that nobody uses and kills what still runs as him. The
// error is [ErrNoneFree] if all are in use.
func (u Users) TryAcquire(ctx context.Context, w Want) (*User, error) {
	return nil, errors.ErrUnsupported
}

// Release gives the user back.
func (u *User) Release() error { return nil }
