package sandbox

import (
	"fmt"
	"strconv"

	"github.com/strata-nix/strata/internal/flock"
)

// User is somebody who runs builders and owns what they make. While it is held
// no other build of this machine has it.
type User struct {
	UID, GID uint32
	// Groups are the supplementary groups, which a builder has outside a sandbox.
	Groups []uint32
	// Count is how many ids from UID and GID on belong to it: 1, or [RangeSize].
	Count uint32

	lock *flock.Lock
}

// RangeSize is the number of ids that a builder with the feature uid-range has.
const RangeSize = 1 << 16

// Release gives the user back.
func (u *User) Release() error { return u.lock.Close() }

// try takes the user that a lock file stands for and kills what still runs as him.
// It returns ErrNoneFree if somebody else has him.
func try(lockFile string, make func() (*User, error)) (*User, error) {
	lock, err := flock.Open(lockFile)
	if err != nil {
		return nil, err
	}
	free, err := lock.Try(flock.Exclusive)
	if err == nil && !free {
		err = ErrNoneFree
	}
	var u *User
	if err == nil {
		u, err = make()
	}
	if err == nil {
		err = endUser(u.UID)
	}
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	u.lock = lock
	return u, nil
}

// number reads an id of an account.
func number(what, s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s: %q is no id", what, s)
	}
	return uint32(n), nil
}
