package nar

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// File descriptors are plain numbers here: an os.File costs more to make than a
// small file costs to read.

// retry repeats a system call that a signal interrupted.
func retry[T any](f func() (T, error)) (T, error) {
	for {
		v, err := f()
		if err != unix.EINTR {
			return v, err
		}
	}
}

func openat(dirfd int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags|unix.O_CLOEXEC, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func fread(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

func fwrite(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if err != nil && err != unix.EINTR {
			return err
		}
		p = p[max(n, 0):]
	}
	return nil
}

// storeTime is the modification time of everything in a store: 1 second after
// the epoch. The access time is left alone.
var storeTime = [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: 1}}

// setStoreTime sets the modification time of an open file.
func setStoreTime(fd int) error {
	// A nil path means fd itself; AT_EMPTY_PATH came only with Linux 5.8.
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&storeTime)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// setStoreTimeAt sets the modification time of a directory entry, which may be
// a symlink.
func setStoreTimeAt(dirfd int, name string) error {
	return unix.UtimesNanoAt(dirfd, name, storeTime[:], unix.AT_SYMLINK_NOFOLLOW)
}

func readlinkat(dirfd int, name string) (string, error) {
	buf := make([]byte, MaxTarget+1)
	n, err := unix.Readlinkat(dirfd, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// pathError is an os.PathError, without an allocation when err is nil.
func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}

// splitPath opens the directory that path is in. Symlinks on the way there are
// followed, path itself is not looked at.
func splitPath(path string) (parent *os.File, name string, err error) {
	path = filepath.Clean(path)
	dir, name := filepath.Split(path)
	if reason := checkName(name); reason != "" {
		return nil, "", pathError("open", path, errors.New(reason))
	}
	if dir == "" {
		dir = "."
	}
	fd, err := openat(unix.AT_FDCWD, dir, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return nil, "", pathError("open", dir, err)
	}
	return os.NewFile(uintptr(fd), filepath.Clean(dir)), name, nil
}

// atDir is for functions that work on an entry of a directory that the caller
// holds open: it checks the name and keeps the directory from being closed.
func atDir[T any](dir *os.File, name string, f func(dirfd int, path string) (T, error)) (T, error) {
	defer runtime.KeepAlive(dir)
	path := filepath.Join(dir.Name(), name)
	if reason := checkName(name); reason != "" {
		var zero T
		return zero, pathError("open", path, errors.New(reason))
	}
	return f(int(dir.Fd()), path)
}

// A trail is the way from the object that a walk began at to where it is, for
// error messages.
type trail struct {
	root  string
	names []string
}

func (t *trail) push(name string) { t.names = append(t.names, name) }
func (t *trail) pop()             { t.names = t.names[:len(t.names)-1] }

// at is the path of an entry of the present directory, or of the present object
// itself if name is empty.
func (t *trail) at(name string) string {
	all := slices.Concat([]string{t.root}, t.names)
	if name != "" {
		all = append(all, name)
	}
	return strings.Join(all, "/")
}
