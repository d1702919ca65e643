package sandbox

import "github.com/strata-nix/strata/internal/flock"

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
