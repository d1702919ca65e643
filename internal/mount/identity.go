package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ID names one mount. The zero ID names none.
type ID struct {
	Mount  uint64 // as in mountinfo; reused once the mount is gone
	Unique uint64 // never reused during a boot; 0 before Linux 6.8
	Device Device // of the mounted file system
	Root   bool   // what was asked about is the root of the mount
}

// Device is the major and minor number of a mounted file system.
type Device struct{ Major, Minor uint32 }

func (d Device) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// ErrNoMountIDs means that the kernel does not tell mount ids through statx
// (before Linux 5.8).
var ErrNoMountIDs = errors.New("the kernel does not tell mount ids (statx STATX_MNT_ID needs Linux 5.8)")

// Identify returns the identity of the visible mount that path lies on. It
// follows symbolic links, triggers no automount, and does not wait for a
// network or FUSE server.
func Identify(path string) (ID, error) {
	id, err := identify(unix.AT_FDCWD, path, 0)
	if err != nil && !errors.Is(err, ErrNoMountIDs) {
		return ID{}, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return id, err
}

// IdentifyFD is [Identify] for an open file.
func IdentifyFD(fd int) (ID, error) { return identify(fd, "", unix.AT_EMPTY_PATH) }

func identify(dirfd int, path string, flags int) (ID, error) {
	flags |= unix.AT_STATX_DONT_SYNC | unix.AT_NO_AUTOMOUNT
	var st unix.Statx_t
	if err := statx(dirfd, path, flags, unix.STATX_MNT_ID, &st); err != nil {
		return ID{}, err
	}
	id := ID{
		Mount:  st.Mnt_id,
		Device: Device{st.Dev_major, st.Dev_minor},
		Root:   st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return ID{}, ErrNoMountIDs
	}
	// One call answers with one of the two numbers.
	err := statx(dirfd, path, flags, unix.STATX_MNT_ID_UNIQUE, &st)
	if err == nil && st.Mask&unix.STATX_MNT_ID_UNIQUE != 0 {
		id.Unique = st.Mnt_id
	}
	return id, nil
}

func statx(dirfd int, path string, flags, mask int, st *unix.Statx_t) error {
	for {
		err := unix.Statx(dirfd, path, flags, mask, st)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Same reports whether two identities name the same mount. It trusts the
// unique ids alone when both have one.
func (id ID) Same(other ID) bool {
	if id.Unique != 0 && other.Unique != 0 {
		return id.Unique == other.Unique
	}
	return id.Mount != 0 && id.Mount == other.Mount && id.Device == other.Device
}

// BootID returns the kernel's random name for the current boot.
var BootID = sync.OnceValues(func() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
})

// Namespace returns the inode number of the calling process's mount namespace.
// Numbers of dead namespaces are reused.
func Namespace() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/mnt", &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: "/proc/thread-self/ns/mnt", Err: err}
	}
	return st.Ino, nil
}

// userInitIno is the inode number of the first user namespace's file in
// /proc/PID/ns (PROC_USER_INIT_INO in linux/proc_ns.h).
const userInitIno = 0xEFFFFFFD

// InitialUserNamespace reports whether the process is in the user namespace
// that the kernel booted with. Only there do trusted.* extended attributes and
// image mounts work.
func InitialUserNamespace() (bool, error) {
	var st unix.Stat_t
	err := unix.Stat("/proc/self/ns/user", &st)
	if errors.Is(err, unix.ENOENT) {
		if _, perr := os.Stat("/proc/self/ns"); perr == nil {
			return true, nil // a kernel without user namespaces
		}
	}
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: "/proc/self/ns/user", Err: err}
	}
	return st.Ino == userInitIno, nil
}
