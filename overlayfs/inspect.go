package overlayfs

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
)

// Inspect returns the mounts at target, bottom first; the last one is the one
// that a process sees. It is empty when target is not a mount point. target
// may be reached through symbolic links; it must exist.
func Inspect(target string) ([]MountInfo, error) {
	stack, err := mount.StackAt(target)
	if err != nil {
		return nil, fmt.Errorf("inspect %q: %w", target, err)
	}
	out := make([]MountInfo, len(stack))
	for i, e := range stack {
		if out[i], err = newMountInfo(e); err != nil {
			return nil, fmt.Errorf("inspect %q: %w", target, err)
		}
	}
	return out, nil
}

// Visible returns the overlay that a process sees at target. It is
// [ErrNotMounted] when there is none.
func Visible(target string) (MountInfo, error) {
	stack, err := Inspect(target)
	if err != nil {
		return MountInfo{}, err
	}
	if len(stack) == 0 || !stack[len(stack)-1].IsOverlay() {
		return MountInfo{}, fmt.Errorf("overlay at %q: %w", target, ErrNotMounted)
	}
	return stack[len(stack)-1], nil
}

// sameDirectory reports whether two paths name one directory: the same text,
// or the same object on disk, which sees through symbolic links, bind mounts
// and spelling.
func sameDirectory(a, b string) bool {
	if a == b {
		return true
	}
	// stat of a relative path would be relative to us, not to whoever mounted.
	if a == "" || b == "" || a[0] != '/' || b[0] != '/' {
		return false
	}
	da, errA := lookAt(a)
	db, errB := lookAt(b)
	return errA == nil && errB == nil && da == db
}

// directory identifies an object on disk.
type directory struct {
	device mount.Device
	ino    uint64
}

// lookAt finds out what is at a path without waiting for a server that the
// kernel need not ask.
func lookAt(path string) (directory, error) {
	var st unix.Statx_t
	flags := unix.AT_STATX_DONT_SYNC | unix.AT_NO_AUTOMOUNT
	if err := unix.Statx(unix.AT_FDCWD, path, flags, unix.STATX_INO, &st); err != nil {
		return directory{}, err
	}
	return directory{mount.Device{Major: st.Dev_major, Minor: st.Dev_minor}, st.Ino}, nil
}

// isOverlayFS reports whether the open directory lies on an overlay.
func isOverlayFS(f *os.File) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return false, err
	}
	return fs.Type == unix.OVERLAYFS_SUPER_MAGIC, nil
}
