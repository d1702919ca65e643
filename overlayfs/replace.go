package overlayfs

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// Replace puts a new overlay in the place of the one that old describes, in one
// step for everybody who looks a path up: the new one is attached below the
// old one, and the old one is detached. Processes that are inside the old one
// stay there until they leave or end; everybody else sees the new one. It is
// for another list of lowers, and the last resort against [ErrInUse].
//
// o.Target is set from old. The new mount may have the same upper and work
// directory; then two mounts have them until the last process has left the old
// one, which is safe only as long as those processes only read.
//
// BeforeAttach has to store the new record beside the old one: after a crash in
// the middle the old mount is [Mounted] and the new one [Covered].
//
// It needs Linux 6.5. The old mount must be visible, see [State]. On error the
// old mount is still in place.
func Replace(ctx context.Context, old Record, o Options) (*OverlayMount, error) {
	fail := func(err error) (*OverlayMount, error) {
		return nil, fmt.Errorf("replace the mount at %q: %w", old.Target, err)
	}
	state, err := old.Recognise()
	if err != nil {
		return fail(err)
	}
	if state != Mounted {
		return fail(&StateError{Target: old.Target, State: state})
	}
	o.Target, o.AllowUpperInUse = old.Target, true
	m, err := makeMount(ctx, o, true)
	if err != nil {
		return fail(err)
	}
	// From here on the only way is forward: the new mount is in the tree.
	if err := unix.Unmount(old.Target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
		return fail(fmt.Errorf("detach the old mount, below which the new one now lies: %w", err))
	}
	state, err = m.Record.Recognise()
	if err != nil {
		return fail(err)
	}
	if state != Mounted {
		return fail(&StateError{Target: old.Target, State: state})
	}
	return m, nil
}
