package nar

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Dump writes the archive of the file system object at path to w. Symlinks are
// followed on the way to path, never at path itself or below it, not even if
// somebody replaces a directory by one meanwhile. Modes other than the owner's
// execute bit, owners and times are not recorded.
//
// The error wraps ErrUnsupportedType if there is a socket, device or FIFO,
// ErrChanged if a file was modified meanwhile, ErrTooDeep, an error of w, or
// ctx's cause; it names the path. What was written by then is no archive.
//
// w.Write is called from the calling goroutine, with up to 256 KiB at a time,
// while another goroutine reads ahead.
func Dump(ctx context.Context, w io.Writer, path string) error {
	path = filepath.Clean(path)
	return dump(ctx, w, unix.AT_FDCWD, path, path)
}

// DumpAt is Dump for an entry of an open directory.
func DumpAt(ctx context.Context, w io.Writer, dir *os.File, name string) error {
	_, err := atDir(dir, name, func(dirfd int, path string) (struct{}, error) {
		return struct{}{}, dump(ctx, w, dirfd, name, path)
	})
	return err
}

// DumpInspected is Dump that lets inspect see the metadata of each object of the tree,
// from another goroutine than w, and in the order of the archive. path is only good for
// messages, and costs something.
func DumpInspected(ctx context.Context, w io.Writer, path string, inspect func(path func() string, st *unix.Stat_t)) error {
	path = filepath.Clean(path)
	return dumpWith(ctx, w, unix.AT_FDCWD, path, path, inspect)
}

func dump(ctx context.Context, w io.Writer, dirfd int, name, path string) error {
	return dumpWith(ctx, w, dirfd, name, path, nil)
}

func dumpWith(ctx context.Context, w io.Writer, dirfd int, name, path string, inspect func(func() string, *unix.Stat_t)) error {
	return pump(ctx, w, func(out *output) error {
		d := dumper{out: out, trail: trail{root: path}, inspect: inspect}
		out.buf = appendOpen(out.buf)
		return d.object(dirfd, dirEntry{name: name}, 0)
	})
}

// A dumper walks a tree. Its trail leads to the object that is being dumped.
type dumper struct {
	out     *output
	trail   trail
	inspect func(path func() string, st *unix.Stat_t) // may be nil
	seen    unix.Stat_t                               // that inspect is shown
}

// look shows the metadata of where the dump is, if anybody wants to see it.
func (d *dumper) look(st *unix.Stat_t) {
	if d.inspect != nil {
		d.seen = *st // st itself stays where it is cheap
		d.inspect(d.here, &d.seen)
	}
}

func (d *dumper) here() string { return d.trail.at("") }

func (d *dumper) fail(op string, err error) error {
	return pathError(op, d.trail.at(""), err)
}

// object dumps what follows the "type" token, and the end of the object.
func (d *dumper) object(dirfd int, e dirEntry, depth int) error {
	if depth == MaxDepth {
		return d.fail("dump", ErrTooDeep)
	}
	typ, err := e.typeAt(dirfd)
	if err != nil {
		return d.fail("lstat", err)
	}
	if err := d.out.reserve(headerMax); err != nil {
		return err
	}
	switch typ {
	case unix.DT_REG:
		err = d.regular(dirfd, e.name)
	case unix.DT_DIR:
		err = d.directory(dirfd, e.name, depth)
	case unix.DT_LNK:
		err = d.symlink(dirfd, e.name)
	default:
		err = d.fail("dump", ErrUnsupportedType)
	}
	if err != nil {
		return err
	}
	if err := d.out.reserve(headerMax); err != nil {
		return err
	}
	d.out.buf = appendClose(d.out.buf, depth)
	return nil
}

// open opens an object whose type is known, and insists on it: an object of
// another type may have taken its place.
func (d *dumper) open(dirfd int, name string, flags int, want uint32, st *unix.Stat_t) (int, error) {
	// O_NONBLOCK, since opening a FIFO would wait for a writer.
	fd, err := openat(dirfd, name, flags|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err == unix.ELOOP || err == unix.ENOTDIR {
		return -1, d.fail("open", ErrChanged)
	} else if err != nil {
		return -1, d.fail("open", err)
	}
	if err := unix.Fstat(fd, st); err != nil {
		unix.Close(fd)
		return -1, d.fail("fstat", err)
	}
	if st.Mode&unix.S_IFMT != want {
		unix.Close(fd)
		return -1, d.fail("open", ErrChanged)
	}
	return fd, nil
}

func (d *dumper) regular(dirfd int, name string) error {
	var st unix.Stat_t
	fd, err := d.open(dirfd, name, 0, unix.S_IFREG, &st)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	d.look(&st)
	d.out.buf = appendRegular(d.out.buf, st.Mode&unix.S_IXUSR != 0, st.Size)
	if err := d.contents(fd, st.Size); err != nil {
		return err
	}
	d.out.buf = appendPadding(d.out.buf, st.Size)
	return nil
}

// contents reads a file straight into the output buffer. It always asks for one
// byte more than there should be, to notice if the file has grown.
func (d *dumper) contents(fd int, size int64) error {
	for left := size; ; {
		room := d.out.room()
		if int64(room) <= left && room < bulkSize/4 {
			if err := d.out.flush(); err != nil {
				return err
			}
			room = d.out.room()
		}
		asked := int(min(left+1, int64(room)))
		n, err := fread(fd, d.out.tail(asked))
		if err != nil {
			return d.fail("read", err)
		}
		if int64(n) > left || n == 0 && left > 0 {
			return d.fail("read", ErrChanged)
		}
		d.out.buf = d.out.buf[:len(d.out.buf)+n]
		left -= int64(n)
		if left == 0 && n < asked {
			return nil
		}
	}
}

func (d *dumper) symlink(dirfd int, name string) error {
	target, err := readlinkat(dirfd, name)
	if err == unix.EINVAL {
		return d.fail("readlink", ErrChanged)
	} else if err != nil {
		return d.fail("readlink", err)
	}
	if reason := checkTarget(target); reason != "" {
		return d.fail("readlink", fmt.Errorf("%s", reason))
	}
	if d.inspect != nil {
		var st unix.Stat_t
		if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return d.fail("lstat", err)
		}
		d.look(&st)
	}
	d.out.buf = appendSymlink(d.out.buf, target)
	return nil
}

func (d *dumper) directory(dirfd int, name string, depth int) error {
	var st unix.Stat_t
	fd, err := d.open(dirfd, name, unix.O_DIRECTORY, unix.S_IFDIR, &st)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	list, err := readDirectory(fd)
	if err != nil {
		return d.fail("readdir", err)
	}
	d.look(&st)
	slices.SortFunc(list, func(a, b dirEntry) int { return cmp.Compare(a.name, b.name) })
	d.out.buf = append(d.out.buf, tokDirectory...)
	for _, e := range list {
		d.trail.push(e.name)
		if err := d.out.reserve(headerMax); err != nil {
			return err
		}
		d.out.buf = appendEntry(d.out.buf, e.name)
		if err := d.object(fd, e, depth+1); err != nil {
			return err
		}
		d.trail.pop()
	}
	return nil
}
