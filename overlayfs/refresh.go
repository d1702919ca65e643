package overlayfs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
)

// RefreshPrefix begins the names of the temporary entries that [Refresh] makes
// and unlinks in the merged root. No store path has such a name.
const RefreshPrefix = ".strata-refresh-"

// ErrListingsStale means that a refresh made lookups right, but could not write
// to the merged root, so that a process that keeps its directory open goes on
// reading an old listing. A full disk is one reason.
var ErrListingsStale = errors.New("held directory listings may be old")

// Refresh makes visible what changed in the layers of the overlay at target:
// names that a lower gained, names whose upper copy or whiteout went. Running
// programs, open files and working directories are not disturbed. It takes
// milliseconds, or seconds when millions of names are cached, so do it once
// for many changes.
//
// It works in two steps: the file system is reconfigured without parameters,
// which drops unused cached names, and a temporary name is made and unlinked
// through the merged root, which invalidates listings. The second step is left
// out of a mount that takes no writes. A mount that is not an overlay, as
// [Mount] makes of a single lower, needs no refresh and gets none.
//
// It needs CAP_SYS_ADMIN in the user namespace that made the mount.
func Refresh(ctx context.Context, target string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	dir, err := os.OpenFile(target, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("refresh: %w", err)
	}
	defer dir.Close()
	is, err := isOverlayFS(dir)
	if err != nil {
		return fmt.Errorf("refresh %q: %w", target, err)
	}
	if !is {
		id, err := mount.IdentifyFD(int(dir.Fd()))
		if err == nil && !id.Root {
			return fmt.Errorf("refresh %q: %w", target, ErrNotMounted)
		}
		return nil
	}
	err = reconfigure(target)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("refresh %q: %w: it takes CAP_SYS_ADMIN in the user namespace that made the mount", target, err)
	}
	if err != nil {
		return fmt.Errorf("refresh %q: %w", target, err)
	}
	return touchListing(dir)
}

func reconfigure(target string) error {
	err := reconfigureAs(target, "")
	switch {
	case errors.Is(err, unix.ENOSYS):
		return remount(target)
	case errors.Is(err, unix.EROFS):
		// An overlay without an upper wants to hear that it is to stay read-only.
		return reconfigureAs(target, "ro")
	}
	return err
}

func reconfigureAs(target, flag string) error {
	c, err := mount.Pick(target)
	if err != nil {
		return err
	}
	defer c.Close()
	if flag != "" {
		if err := c.SetFlag(flag); err != nil {
			return err
		}
	}
	return c.Reconfigure()
}

// remount is the old way to do the same. It also sets the flags of the mount,
// so it must be told the ones that are there.
func remount(target string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(target, &fs); err != nil {
		return err
	}
	// The ST_ flags of statfs have the values of the MS_ flags, apart from
	// ST_VALID and ST_RELATIME.
	const kept = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME
	flags := uintptr(fs.Flags) & kept
	if fs.Flags&unix.ST_RELATIME != 0 {
		flags |= unix.MS_RELATIME
	}
	return unix.Mount("none", target, "", unix.MS_REMOUNT|flags, "")
}

// touchListing changes the merged directory's version. A symbolic link takes
// no data block.
func touchListing(dir *os.File) error {
	name := RefreshPrefix + rand.Text()
	err := unix.Symlinkat("refresh", int(dir.Fd()), name)
	if errors.Is(err, unix.EROFS) {
		return nil
	}
	if err == nil {
		err = unix.Unlinkat(int(dir.Fd()), name, 0)
	}
	if err != nil {
		return fmt.Errorf("refresh %q: %w: %w", dir.Name(), ErrListingsStale, err)
	}
	return nil
}
