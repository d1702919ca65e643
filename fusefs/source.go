package fusefs

import (
	"context"
	"errors"
	"io/fs"
	"iter"

	"golang.org/x/sys/unix"
)

// Source is what is shown: objects with names and numbers. Its methods may be
// called by any number of goroutines at once, and return soon after ctx has ended,
// which it does when the program that asked got a signal.
//
// An error becomes an errno: fs.ErrNotExist is ENOENT, ErrStale ESTALE, the end of a context
// EINTR, a bare errno itself, and all else EIO.
type Source interface {
	// Lookup finds an object by its name in the root.
	Lookup(ctx context.Context, name string) (Object, error)
	// Object finds an object by its number. It is called for each request, and must be
	// cheap for one that was used a moment ago. ErrStale: nobody has that number (any more).
	Object(ctx context.Context, number uint64) (Object, error)
	// Known lists the objects that are known so far whose numbers are greater than
	// after, in the order of their numbers.
	Known(after uint64) iter.Seq[Known]
}

// Known is an entry of the root's listing.
type Known struct {
	Number uint64
	Name   string
	Kind   Kind // 0: not known without looking closer
}

// Object is an immutable tree and the contents of its files. The same rules hold as
// for a Source.
type Object interface {
	// Number is the object's own, from 1 to MaxObject. It means this object with this
	// tree for as long as the mount exists, whoever serves it.
	Number() uint64
	// Tree never changes.
	Tree() *Tree
	// ReadAt reads from a regular file of the tree. Fewer bytes than were asked for come only
	// at the end of the file.
	ReadAt(ctx context.Context, node uint32, p []byte, off int64) (int, error)
	// Readlink gives the target of a symlink of the tree.
	Readlink(ctx context.Context, node uint32) (string, error)
}

// ErrStale: a number that once meant something does no longer.
var ErrStale = errors.New("object is not the one that it was")

// errno makes an errno of a Source's error. It is the only place where that is done.
func errno(err error) unix.Errno {
	var no unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return unix.EINTR
	case errors.Is(err, ErrStale):
		return unix.ESTALE
	case errors.Is(err, fs.ErrNotExist):
		return unix.ENOENT
	case errors.As(err, &no) && errors.Unwrap(err) == nil:
		return no
	}
	return unix.EIO
}

// NodeID is the number by which the kernel knows a node of an object: of the object
// in the upper bits, of the node in its tree in the lower ones. Inode numbers are the same, so that
// they stay small where there are few objects, as OverlayFS's xino wants them.
func NodeID(object uint64, node uint32) uint64 { return object<<nodeBits | uint64(node) }

// SplitNodeID is the inverse of NodeID.
func SplitNodeID(id uint64) (object uint64, node uint32) {
	return id >> nodeBits, uint32(id & MaxNodes)
}

const (
	nodeBits = 28
	// MaxNodes is one more than the highest number of a node: the most nodes of a tree
	// less one.
	MaxNodes = 1<<nodeBits - 1
	// MaxObject is the highest number of an object.
	MaxObject = 1<<(64-nodeBits) - 1
)
