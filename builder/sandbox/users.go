package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
)

// Users are those who run builders: the members of a group, or ids that belong to
// nobody. Locks are where upstream has them, so that Nix processes on the same
// state directory and we keep off each other's users.
//
// Source: locks of upstream's user-lock.cc, 2.34: userpool/<uid> for members,
// userpool2/slot-<n> for the n-th RangeSize ids of a range, flock(2).
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
func (u Users) Enabled() bool { return os.Geteuid() == 0 && (u.Group != "" || u.Auto != nil) }

// TryAcquire takes a user that nobody uses and kills what still runs as him. The
// error is [ErrNoneFree] if all are in use.
func (u Users) TryAcquire(ctx context.Context, w Want) (*User, error) {
	if u.Auto != nil {
		return u.slot(ctx, w)
	}
	if w.Range {
		return nil, errors.New("feature 'uid-range' requires the setting 'auto-allocate-uids' to be enabled")
	}
	return u.member(ctx)
}

// member takes a member of the group.
func (u Users) member(ctx context.Context) (*User, error) {
	g, err := findGroup(ctx, u.Group)
	if err != nil {
		return nil, err
	}
	if len(g.members) == 0 {
		return nil, fmt.Errorf("the build users group '%s' has no members", u.Group)
	}
	dir := filepath.Join(u.StateDir, "userpool")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, name := range g.members {
		a, err := findAccount(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("the user '%s' in the group '%s' does not exist: %w", name, u.Group, err)
		}
		user, err := try(filepath.Join(dir, strconv.FormatUint(uint64(a.uid), 10)), func() (*User, error) {
			if a.uid == 0 || int(a.uid) == os.Getuid() || int(a.uid) == os.Geteuid() {
				return nil, fmt.Errorf("the user of this program should not be a member of '%s'", u.Group)
			}
			groups, err := supplementary(a, g.gid)
			return &User{UID: a.uid, GID: g.gid, Groups: groups, Count: 1}, err
		})
		if !errors.Is(err, ErrNoneFree) {
			return user, err
		}
	}
	return nil, ErrNoneFree
}

// slot takes ids that belong to nobody.
func (u Users) slot(ctx context.Context, w Want) (*User, error) {
	r := *u.Auto
	if r.Start == 0 || r.Count%RangeSize != 0 || uint64(r.Start)+uint64(r.Count) > math.MaxUint32 {
		return nil, fmt.Errorf("user ids from %d on, %d of them, cannot be allocated: id-count must be a multiple of %d,"+
			" start-id not 0, and both together a number of 32 bits", r.Start, r.Count, RangeSize)
	}
	dir := filepath.Join(u.StateDir, "userpool2")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for n := range r.Count / RangeSize {
		user, err := try(filepath.Join(dir, fmt.Sprintf("slot-%d", n)), func() (*User, error) {
			return u.allocate(ctx, r.Start+n*RangeSize, w)
		})
		if !errors.Is(err, ErrNoneFree) {
			return user, err
		}
	}
	return nil, ErrNoneFree
}

func (u Users) allocate(ctx context.Context, first uint32, w Want) (*User, error) {
	if a, err := user.LookupId(strconv.FormatUint(uint64(first), 10)); err == nil {
		return nil, fmt.Errorf("auto-allocated UID %d clashes with existing user account '%s'", first, a.Username)
	}
	a := &User{UID: first, GID: first, Count: 1}
	if w.Range {
		a.Count = RangeSize
	}
	if !w.Isolated { // inside a sandbox the group is mapped to one that exists there
		g, err := findGroup(ctx, u.Group)
		if err != nil {
			return nil, err
		}
		a.GID = g.gid
	}
	return a, nil
}
