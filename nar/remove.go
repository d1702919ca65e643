package nar

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// RemoveTree deletes the object at path and all that is in it, and tells how
// many bytes that gave back to the file system: the blocks that were allocated
// to directories and to files with no other hard link. It is no error if there
// is nothing at path.
//
// Read-only directories are made writable first. Symlinks are deleted, never
// followed, also if somebody replaces a directory by one meanwhile. The depth
// of the tree does not matter. After an error, which names the path, or when
// ctx is done, an unspecified part is left; freed counts what was deleted.
func RemoveTree(ctx context.Context, path string) (freed int64, err error) {
	parent, name, err := splitPath(path)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	defer parent.Close()
	return RemoveTreeAt(ctx, parent, name)
}

// RemoveTreeAt is RemoveTree for an entry of an open directory.
func RemoveTreeAt(ctx context.Context, dir *os.File, name string) (freed int64, err error) {
	return RemoveTreeAmong(ctx, dir, name, nil)
}

// RemoveTreeAmong is RemoveTreeAt for one of several goroutines that delete trees
// with hard links between them. They share the lock, so that a file whose last two
// names go at the same moment is counted, and once.
func RemoveTreeAmong(ctx context.Context, dir *os.File, name string, links sync.Locker) (freed int64, err error) {
	return atDir(dir, name, func(dirfd int, path string) (int64, error) {
		r := remover{ctx: ctx, trail: trail{root: path}, links: links}
		err := r.object(level{fd: dirfd}, dirEntry{name: name})
		return r.freed, err
	})
}

// removeDepth is how many directories are kept open at most. What lies deeper
// is moved up, into the directory at the top.
const removeDepth = 64

type remover struct {
	ctx   context.Context
	trail trail
	links sync.Locker // may be nil
	freed int64
	top   int // the outermost directory that is being deleted
	moved int // how many directories were moved there
}

// A level is a directory that something is to be deleted from.
type level struct {
	fd    int
	depth int // 0 for the parent of the tree, whose mode is not ours to change
}

// object deletes an entry of a directory.
func (r *remover) object(in level, e dirEntry) error {
	if err := context.Cause(r.ctx); err != nil {
		return err
	}
	var st unix.Stat_t
	err := in.try(func() error { return unix.Fstatat(in.fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err == unix.ENOENT {
		return nil
	} else if err != nil {
		return r.fail("lstat", err)
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
	case st.Nlink == 1:
		return r.unlink(in, e.name, 0, st.Blocks)
	default:
		return r.unlinkShared(in, e.name, &st)
	}
	if in.depth >= removeDepth {
		return r.moveUp(in, e.name)
	}
	if err := r.directory(in, e.name); err != nil {
		return err
	}
	return r.unlink(in, e.name, unix.AT_REMOVEDIR, st.Blocks)
}

// unlinkShared deletes a file that has, or had, other names.
func (r *remover) unlinkShared(in level, name string, st *unix.Stat_t) error {
	if r.links != nil {
		r.links.Lock()
		defer r.links.Unlock()
		if err := unix.Fstatat(in.fd, name, st, unix.AT_SYMLINK_NOFOLLOW); err == unix.ENOENT {
			return nil
		} else if err != nil {
			return r.fail("lstat", err)
		}
	}
	if st.Nlink != 1 {
		st.Blocks = 0
	}
	return r.unlink(in, name, 0, st.Blocks)
}

func (r *remover) unlink(in level, name string, flags int, blocks int64) error {
	err := in.try(func() error { return unix.Unlinkat(in.fd, name, flags) })
	if err == nil {
		r.freed += blocks * 512
	} else if err == unix.ENOENT {
		return nil
	}
	return r.fail("unlink", err)
}

// directory deletes what is in an entry that is a directory.
func (r *remover) directory(in level, name string) error {
	fd, err := openDirectory(in.fd, name)
	if err != nil {
		return r.fail("open", err)
	}
	defer unix.Close(fd)
	if in.depth == 0 {
		r.top = fd
	}
	for {
		moved := r.moved
		if err := r.entries(level{fd: fd, depth: in.depth + 1}); err != nil {
			return err
		}
		if in.depth > 0 || moved == r.moved {
			return nil
		}
		// Directories were moved here from far below: once more.
		if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
			return r.fail("seek", err)
		}
	}
}

func (r *remover) entries(in level) error {
	list, err := readDirectory(in.fd)
	if err != nil {
		return r.fail("readdir", err)
	}
	for _, e := range list {
		r.trail.push(e.name)
		if err := r.object(in, e); err != nil {
			return err
		}
		r.trail.pop()
	}
	return nil
}

// moveUp moves a directory to the top of the tree, where it will be found
// again.
func (r *remover) moveUp(in level, name string) error {
	// Renaming a directory changes its "..", so it must be writable itself.
	fd, err := openDirectory(in.fd, name)
	if err != nil {
		return r.fail("open", err)
	}
	defer unix.Close(fd)
	if err := unix.Fchmod(fd, 0o700); err != nil {
		return r.fail("chmod", err)
	}
	top := level{fd: r.top, depth: 1}
	for {
		r.moved++
		unique := ".strata-moved-" + strconv.Itoa(r.moved)
		err := in.try(func() error {
			return top.try(func() error {
				return unix.Renameat2(in.fd, name, r.top, unique, unix.RENAME_NOREPLACE)
			})
		})
		if err != unix.EEXIST {
			return r.fail("rename", err)
		}
	}
}

func (r *remover) fail(op string, err error) error {
	return pathError(op, r.trail.at(""), err)
}

// try calls f again after making the directory writable, if that may be why it
// failed. Only then: the change would cost a write, and on an OverlayFS a copy.
func (l level) try(f func() error) error {
	err := f()
	if err != unix.EACCES || l.depth == 0 {
		return err
	}
	if cerr := unix.Fchmod(l.fd, 0o700); cerr != nil {
		return fmt.Errorf("%w (and could not make the directory writable: %w)", err, cerr)
	}
	return f()
}

// openDirectory opens a directory for listing, even if its mode forbids that to
// its owner.
func openDirectory(dirfd int, name string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW
	fd, err := openat(dirfd, name, flags, 0)
	if err != unix.EACCES {
		return fd, err
	}
	handle, err := openat(dirfd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(handle)
	if err := unix.Chmod(procPath(handle), 0o700); err != nil {
		return -1, err
	}
	return openat(dirfd, name, flags, 0)
}

// procPath is a path to what an O_PATH descriptor stands for, for the system
// calls that do not take such a descriptor.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
