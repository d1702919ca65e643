package overlayfs

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Binding says in which ways something in an upper depends on the lowers over which
// it was written.
type Binding uint8

const (
	// BoundOrigin: it notes a lower's file or directory that it was copied up from,
	// by a number of that lower's file system. Over other lowers the number means
	// something else.
	BoundOrigin Binding = 1 << iota
	// BoundRedirect: a directory whose contents are also those of another name in the
	// lowers.
	BoundRedirect
	// BoundMetacopy: a file whose contents are in a lower.
	BoundMetacopy
	// BoundWhiteout: a whiteout within a directory, which takes something away from a
	// lower's.
	BoundWhiteout
)

// Incomplete tells that the upper does not have all of it.
func (b Binding) Incomplete() bool { return b&(BoundRedirect|BoundMetacopy|BoundWhiteout) != 0 }

// bindingMarks are the attributes that mean something only together with the lowers that
// they were written over, without their prefix.
var bindingMarks = map[string]Binding{
	"origin":   BoundOrigin,
	"redirect": BoundRedirect,
	"metacopy": BoundMetacopy,
	"impure":   0, // there are origins in the directory
	"nlink":    0, // counts links of a lower
	"upper":    0, // of the index
}

// Bindings tells on what of its lowers the tree at path, an object in the root of an
// upper, depends. It reads all directories, and of the files those that lie in
// directories in which OverlayFS has put something of a lower. path is not followed if it
// is a link.
func Bindings(ctx context.Context, path string) (Binding, error) {
	var all Binding
	err := eachBinding(ctx, path, func(_ string, marks []string) error {
		for _, m := range marks {
			_, mark := cutPrefix(m)
			all |= bindingMarks[mark]
		}
		return nil
	}, func(string) { all |= BoundWhiteout })
	return all, err
}

// Unbind removes the marks in a tree that tie it to the lowers over which it was written,
// and tells how many there were. What such marks say must be in the tree itself, see
// [Binding.Incomplete]. No overlay may be mounted that has looked at the tree, but for one
// that is about to go.
func Unbind(ctx context.Context, path string) (removed int, err error) {
	err = eachBinding(ctx, path, func(at string, marks []string) error {
		for _, m := range marks {
			if err := removeMark(at, m); err != nil {
				return err
			}
			removed++
		}
		return nil
	}, func(string) {})
	return removed, err
}

// UnbindRoot is [Unbind] for the root directory of an upper alone, without what is in it.
func UnbindRoot(upper string) error {
	marks, err := boundMarks(upper)
	for _, m := range marks {
		if err := removeMark(upper, m); err != nil {
			return err
		}
	}
	return err
}

// removeMark removes an attribute. Those named user.* may be changed only by who may write,
// which nobody may to a store object but root.
func removeMark(path, mark string) error {
	err := unix.Lremovexattr(path, mark)
	if errors.Is(err, unix.EACCES) {
		if st, statErr := os.Lstat(path); statErr == nil && st.Mode()&fs.ModeSymlink == 0 && os.Chmod(path, st.Mode().Perm()|0o200) == nil {
			err = errors.Join(unix.Lremovexattr(path, mark), os.Chmod(path, st.Mode().Perm()))
		}
	}
	if err != nil && !absentXattr(err) {
		return &os.PathError{Op: "remove mark " + mark, Path: path, Err: err}
	}
	return nil
}

// UsesUserXattr tells in which form an upper that is mounted by this process gets its marks:
// as user.overlay.* attributes, or as trusted.overlay.*.
func UsesUserXattr(upper string) (bool, error) { return Options{Upper: upper}.userXattr() }

// eachBinding calls found for what has such marks in the tree, and whiteout for the
// whiteouts that lie below its root.
func eachBinding(ctx context.Context, path string, found func(path string, marks []string) error, whiteout func(path string)) error {
	marks, err := boundMarks(path)
	if err != nil {
		return err
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	impure := slices.ContainsFunc(marks, func(m string) bool { _, mark := cutPrefix(m); return mark == "impure" })
	if fi.IsDir() {
		err := eachEntry(ctx, path, func(e fs.DirEntry) error {
			at := filepath.Join(path, e.Name())
			switch {
			case e.IsDir():
				return eachBinding(ctx, at, found, whiteout)
			case e.Type()&fs.ModeCharDevice != 0:
				whiteout(at)
			case impure:
				return eachBinding(ctx, at, found, whiteout)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if len(marks) == 0 {
		return nil
	}
	return found(path, marks) // after what is in it, which impure leads to
}

// boundMarks lists the marks of one file or directory, in full.
func boundMarks(path string) ([]string, error) {
	buf := make([]byte, 1024)
	n, err := unix.Llistxattr(path, buf)
	for errors.Is(err, unix.ERANGE) && len(buf) < 1<<17 { // XATTR_LIST_MAX is 64 KiB
		buf = make([]byte, 4*len(buf))
		n, err = unix.Llistxattr(path, buf)
	}
	if absentXattr(err) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "listxattr", Path: path, Err: err}
	}
	var marks []string
	for name := range bytes.SplitSeq(buf[:n], []byte{0}) {
		if ours, mark := cutPrefix(string(name)); ours {
			if _, bound := bindingMarks[mark]; bound {
				marks = append(marks, string(name))
			}
		}
	}
	return marks, nil
}

// cutPrefix takes the prefix of OverlayFS's marks away, in either spelling.
func cutPrefix(attribute string) (ours bool, mark string) {
	for _, user := range []bool{false, true} {
		if mark, ok := strings.CutPrefix(attribute, xattrPrefix(user)); ok {
			return true, mark
		}
	}
	return false, ""
}
