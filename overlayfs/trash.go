package overlayfs

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxDepth is how many nested directories are kept open while a tree is
// removed. What lies deeper is first moved up.
const maxDepth = 64

// tree removes one directory tree that nobody needs any more, in memory that
// does not depend on its size or depth.
type tree struct {
	root  *os.File // the directory that is emptied
	moved int      // subtrees that were moved up into root
	freed int64    // bytes of disk space given back
}

// removeTree removes name from the directory dirfd, with everything in it, and
// returns how many bytes of disk space that gave back: hard links to files
// that live on elsewhere count nothing. Write-protected directories are made
// writable on the way. A missing name is no error.
func removeTree(ctx context.Context, dirfd int, name string) (int64, error) {
	t := &tree{}
	err := t.remove(ctx, dirfd, name, 0)
	return t.freed, err
}

func (t *tree) remove(ctx context.Context, dirfd int, name string, depth int) error {
	var st unix.Stat_t
	err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "lstat", Path: name, Err: err}
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if isDir && depth == maxDepth {
		return t.moveUp(dirfd, name)
	}
	flags := 0
	if isDir {
		flags = unix.AT_REMOVEDIR
		if err := t.empty(ctx, dirfd, name, depth); err != nil {
			return err
		}
	}
	err = unix.Unlinkat(dirfd, name, flags)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "remove", Path: name, Err: err}
	}
	if isDir || st.Nlink == 1 {
		t.freed += st.Blocks * 512
	}
	return nil
}

// moveUp takes a subtree that lies too deep into the root, to be removed in a
// later round.
func (t *tree) moveUp(dirfd int, name string) error {
	t.moved++
	to := ".deep-" + strconv.Itoa(t.moved)
	err := unix.Renameat(dirfd, name, int(t.root.Fd()), to)
	if errors.Is(err, unix.EACCES) && makeWritable(dirfd, name) == nil {
		err = unix.Renameat(dirfd, name, int(t.root.Fd()), to)
	}
	if err != nil {
		return &os.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

func makeWritable(dirfd int, name string) error { return unix.Fchmodat(dirfd, name, 0o700, 0) }

// empty removes all entries of a directory.
func (t *tree) empty(ctx context.Context, dirfd int, name string, depth int) error {
	dir, err := openWritable(dirfd, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	if depth == 0 {
		t.root = dir
	}
	// Removing while reading may hide entries from the reader, so read until
	// a whole pass finds none.
	for {
		n, err := t.pass(ctx, dir, depth)
		if err != nil || n == 0 {
			return err
		}
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

func (t *tree) pass(ctx context.Context, dir *os.File, depth int) (n int, err error) {
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return n, err
			}
			if err := t.remove(ctx, int(dir.Fd()), name, depth+1); err != nil {
				return n, err
			}
			n++
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// openWritable opens a directory whose entries are to be removed, and gives
// its owner the right to do so. Store directories are 0555.
func openWritable(dirfd int, name string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(dirfd, name, flags, 0)
	if errors.Is(err, unix.EACCES) && makeWritable(dirfd, name) == nil {
		fd, err = unix.Openat(dirfd, name, flags, 0)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	if unix.Faccessat(fd, ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS) != nil {
		if err := unix.Fchmod(fd, 0o700); err != nil {
			unix.Close(fd)
			return nil, &os.PathError{Op: "chmod", Path: name, Err: err}
		}
	}
	return os.NewFile(uintptr(fd), name), nil
}
