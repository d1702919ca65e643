package mount

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// moveMountBeneath is MOVE_MOUNT_BENEATH of linux/mount.h (Linux 6.5).
const moveMountBeneath = 0x200

// Detached is a mount that is not attached anywhere. Closing it before it was
// attached destroys the mount; closing it afterwards does not.
type Detached struct{ fd int }

// Close releases the handle. It must be closed after attaching too: while it
// is open the mount is busy.
func (d *Detached) Close() error { return unix.Close(d.fd) }

// ID returns the mount's identity, which attaching does not change.
func (d *Detached) ID() (ID, error) { return identify(d.fd, "", unix.AT_EMPTY_PATH) }

// Attach puts the mount on top of the directory or file that target, an open
// O_PATH descriptor, names.
func (d *Detached) Attach(target int) error { return d.move(target, 0) }

// AttachBeneath puts the mount below the mount whose root target names, so
// that it shows when that one is taken away.
func (d *Detached) AttachBeneath(target int) error { return d.move(target, moveMountBeneath) }

func (d *Detached) move(target, flags int) error {
	flags |= unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	if err := unix.MoveMount(d.fd, "", target, "", flags); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// SetAttr adds MOUNT_ATTR_ flags to the mount, and to those below it in the
// same tree.
func (d *Detached) SetAttr(set uint64) error {
	attr := unix.MountAttr{Attr_set: set}
	err := unix.MountSetattr(d.fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
	if err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return nil
}

// Clone makes a detached copy of the mount at path, starting at path: what
// mount --bind does. Mounts below path are left out where the kernel allows
// that; in a user namespace it may insist on taking them along, so that
// nothing they hide is uncovered.
func Clone(path string) (*Detached, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.OpenTree(unix.AT_FDCWD, path, flags|unix.AT_RECURSIVE)
	}
	if err != nil {
		return nil, fmt.Errorf("open_tree %q: %w", path, err)
	}
	return &Detached{fd: fd}, nil
}

// CloneReadOnly is [Clone] with the copy made read-only, nosuid and nodev.
// The original mount keeps its flags.
func CloneReadOnly(path string) (*Detached, error) {
	d, err := Clone(path)
	if err != nil {
		return nil, err
	}
	if err := d.SetAttr(unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV); err != nil {
		d.Close()
		return nil, fmt.Errorf("bind of %q: %w", path, err)
	}
	return d, nil
}
