package overlayfs

import (
	"sync/atomic"

	"github.com/strata-nix/strata/internal/mount"
)

// A Guard verifies a mount that others may change, before each use of it. As long
// as the mount is the one that it found in order the last time, that takes two
// system calls; on kernels that use mount ids twice (before Linux 6.8), a look at
// the mount table.
type Guard struct {
	target string
	want   Expected
	good   atomic.Pointer[mount.ID]
}

// NewGuard makes a guard of what a process sees at target.
func NewGuard(target string, want Expected) *Guard { return &Guard{target: target, want: want} }

// Check is [Verify], if need be. It may be called by any number of goroutines.
func (g *Guard) Check() error {
	id, err := mount.Identify(g.target)
	if err == nil && id.Unique != 0 && id.Root {
		if good := g.good.Load(); good != nil && id == *good {
			return nil
		}
	}
	if err := Verify(g.target, g.want); err != nil {
		return err
	}
	// Looked at before it was verified: what came in between is another one.
	g.good.Store(&id)
	return nil
}
