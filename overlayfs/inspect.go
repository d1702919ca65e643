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
	var sa, sb unix.Stat_t
	if unix.Stat(a, &sa) != nil || unix.Stat(b, &sb) != nil {
		return false
	}
	return sa.Dev == sb.Dev && sa.Ino == sb.Ino
}

// isOverlayFS reports whether the open directory lies on an overlay.
func isOverlayFS(f *os.File) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return false, err
	}
	return fs.Type == unix.OVERLAYFS_SUPER_MAGIC, nil
}
