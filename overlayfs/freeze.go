package overlayfs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrWritten means that somebody has a file of a mount open for writing.
var ErrWritten = errors.New("somebody has a file open for writing")

// Freeze makes the file system of the overlay at target read-only, for everybody who
// sees it, in whatever mount namespace. Who reads is not disturbed. It is for an overlay whose
// upper another is about to get: two that write would spoil it. [ErrWritten] says that a file
// is open for writing; then nothing has changed.
func Freeze(target string) error {
	err := reconfigureAs(target, "ro")
	if errors.Is(err, unix.EBUSY) {
		err = ErrWritten
	}
	if err != nil {
		return fmt.Errorf("freeze the overlay at %q: %w", target, err)
	}
	return nil
}

// Thaw undoes Freeze. A file system that is not read-only it leaves alone.
func Thaw(target string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(target, &fs); err == nil && fs.Flags&unix.ST_RDONLY == 0 {
		return nil
	}
	if err := reconfigureAs(target, "rw"); err != nil {
		return fmt.Errorf("make the overlay at %q writable again: %w", target, err)
	}
	return nil
}
