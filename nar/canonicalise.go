package nar

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// CanonicaliseOptions says what Canonicalise expects and leaves alone. The zero
// value is upstream's default.
type CanonicaliseOptions struct {
	// IgnoredACLs are the extended attributes that are left alone, as in
	// upstream's setting ignored-acls. Nil means DefaultIgnoredACLs.
	IgnoredACLs []string
	// Owners, if not nil, are the users that may own what is found, as for the
	// output of a build: otherwise a build could hard-link somebody's file into
	// its output and have its mode and owner changed.
	Owners *UIDRange
	// Seen records the inodes that were made canonical. Trees that may share
	// hard links, as the outputs of one build, must share it, because the owner
	// of a file is no longer in Owners when it is met for the second time. Nil
	// is for one tree.
	Seen Inodes
}

// DefaultIgnoredACLs cannot be removed even by root.
var DefaultIgnoredACLs = []string{"security.selinux", "system.nfs4_acl", "security.csm"}

// A UIDRange is a range of user ids, both ends included.
type UIDRange struct{ First, Last uint32 }

// Inodes is a set of inodes. It is not safe for use by two goroutines at once.
type Inodes map[inode]struct{}

type inode struct{ dev, ino uint64 }

// Canonicalise gives the tree at path the metadata that everything in a store
// has: mode 0444, or 0555 for directories and for files that their owner may
// execute; modification time 1 s after the epoch; the effective user and group
// as owner, if the user was another; no extended attributes, thus no ACLs. It
// is what upstream's src/libstore/posix-fs-canonicalise.cc does. Restore does
// not need it.
//
// The error names the path. It wraps ErrUnsupportedType for anything but files,
// directories and symlinks, ErrOwner for owners outside of opts.Owners,
// ErrTooDeep, or ctx's cause. By then part of the tree has been changed.
func Canonicalise(ctx context.Context, path string, opts CanonicaliseOptions) error {
	parent, name, err := splitPath(path)
	if err != nil {
		return err
	}
	defer parent.Close()
	return CanonicaliseAt(ctx, parent, name, opts)
}

// CanonicaliseAt is Canonicalise for an entry of an open directory.
func CanonicaliseAt(ctx context.Context, dir *os.File, name string, opts CanonicaliseOptions) error {
	if opts.IgnoredACLs == nil {
		opts.IgnoredACLs = DefaultIgnoredACLs
	}
	if opts.Seen == nil {
		opts.Seen = make(Inodes)
	}
	_, err := atDir(dir, name, func(dirfd int, path string) (struct{}, error) {
		c := canonicaliser{
			ctx: ctx, opts: opts, uid: os.Geteuid(), gid: os.Getegid(),
			trail: trail{root: path},
		}
		return struct{}{}, c.object(dirfd, name, 0)
	})
	return err
}

type canonicaliser struct {
	ctx      context.Context
	opts     CanonicaliseOptions
	uid, gid int
	trail    trail
}

// A handle is an object that is held by an O_PATH descriptor, so that all
// changes are made to the same one.
type handle struct {
	fd   int
	path string // a way to it through /proc; for a symlink, to its directory entry
	st   unix.Stat_t
}

func (h *handle) symlink() bool { return h.st.Mode&unix.S_IFMT == unix.S_IFLNK }
func (h *handle) dir() bool     { return h.st.Mode&unix.S_IFMT == unix.S_IFDIR }

func (c *canonicaliser) fail(op string, err error) error {
	return pathError(op, c.trail.at(""), err)
}

func (c *canonicaliser) object(dirfd int, name string, depth int) error {
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	if depth == MaxDepth {
		return c.fail("canonicalise", ErrTooDeep)
	}
	fd, err := openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return c.fail("open", err)
	}
	defer unix.Close(fd)
	h := &handle{fd: fd, path: procPath(fd)}
	if err := unix.Fstat(fd, &h.st); err != nil {
		return c.fail("fstat", err)
	}
	switch h.st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
	case unix.S_IFLNK:
		h.path = procPath(dirfd) + "/" + name
	default:
		return c.fail("canonicalise", ErrUnsupportedType)
	}
	if seen, err := c.checkOwner(h); seen || err != nil {
		return err
	}
	if err := c.dropXattrs(h); err != nil {
		return err
	}
	if err := c.metadata(h); err != nil {
		return err
	}
	if h.dir() {
		return c.entries(h, depth)
	}
	return nil
}

// checkOwner refuses what somebody else owns, and tells whether the object is a
// further hard link to one that was dealt with.
func (c *canonicaliser) checkOwner(h *handle) (seen bool, err error) {
	id := inode{uint64(h.st.Dev), h.st.Ino}
	owners := c.opts.Owners
	if owners == nil || h.st.Uid >= owners.First && h.st.Uid <= owners.Last {
		c.opts.Seen[id] = struct{}{}
		return false, nil
	}
	_, seen = c.opts.Seen[id]
	if h.dir() || !seen || int(h.st.Uid) != c.uid || !isCanonical(&h.st) {
		return false, c.fail("canonicalise", fmt.Errorf("%w: uid %d", ErrOwner, h.st.Uid))
	}
	return true, nil
}

func isCanonical(st *unix.Stat_t) bool {
	return st.Mode == canonicalMode(st.Mode) && st.Mtim == storeTime[1]
}

// MetadataFault says what about an object in a store is not as Canonicalise makes it, ""
// if nothing. uid is who should own it.
func MetadataFault(st *unix.Stat_t, uid uint32) string {
	switch mode := canonicalMode(st.Mode); {
	case mode != st.Mode:
		return fmt.Sprintf("its mode is %04o instead of %04o", st.Mode&0o7777, mode&0o7777)
	case st.Mtim != storeTime[1]:
		return fmt.Sprintf("its time is %d.%09d instead of 1", st.Mtim.Sec, st.Mtim.Nsec)
	case st.Uid != uid:
		return fmt.Sprintf("its owner is user %d instead of %d", st.Uid, uid)
	}
	return ""
}

func canonicalMode(mode uint32) uint32 {
	switch typ := mode & unix.S_IFMT; {
	case typ == unix.S_IFLNK:
		return mode
	case typ == unix.S_IFDIR, mode&unix.S_IXUSR != 0:
		return typ | 0o555
	default:
		return typ | 0o444
	}
}

func (c *canonicaliser) metadata(h *handle) error {
	if mode := canonicalMode(h.st.Mode); mode != h.st.Mode {
		if err := unix.Chmod(h.path, mode&0o7777); err != nil {
			return c.fail("chmod", err)
		}
	}
	if h.st.Mtim != storeTime[1] {
		flags := 0
		if h.symlink() {
			flags = unix.AT_SYMLINK_NOFOLLOW
		}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, h.path, storeTime[:], flags); err != nil {
			return c.fail("utimensat", err)
		}
	}
	if int(h.st.Uid) != c.uid {
		if err := unix.Fchownat(h.fd, "", c.uid, c.gid, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return c.fail("chown", err)
		}
	}
	return nil
}

func (c *canonicaliser) dropXattrs(h *handle) error {
	list, remove := unix.Listxattr, unix.Removexattr
	if h.symlink() {
		list, remove = unix.Llistxattr, unix.Lremovexattr
	}
	names, err := listXattrs(h.path, list)
	if err != nil {
		return c.fail("listxattr", err)
	}
	for _, name := range names {
		if slices.Contains(c.opts.IgnoredACLs, name) {
			continue
		}
		if err := remove(h.path, name); err != nil && err != unix.ENODATA {
			return c.fail("removexattr "+name, err)
		}
	}
	return nil
}

// listXattrs returns the names of an object's extended attributes, none on file
// systems without them.
func listXattrs(path string, list func(string, []byte) (int, error)) ([]string, error) {
	for {
		size, err := list(path, nil)
		if errors.Is(err, unix.ENOTSUP) || err == unix.ENODATA || err == nil && size == 0 {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		buf := make([]byte, size)
		size, err = list(path, buf)
		if err == unix.ERANGE {
			continue // there are more now
		} else if err != nil {
			return nil, err
		}
		return strings.FieldsFunc(string(buf[:size]), func(r rune) bool { return r == 0 }), nil
	}
}

func (c *canonicaliser) entries(h *handle, depth int) error {
	fd, err := openat(h.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return c.fail("open", err)
	}
	defer unix.Close(fd)
	list, err := readDirectory(fd)
	if err != nil {
		return c.fail("readdir", err)
	}
	for _, e := range list {
		c.trail.push(e.name)
		if err := c.object(fd, e.name, depth+1); err != nil {
			return err
		}
		c.trail.pop()
	}
	return nil
}
