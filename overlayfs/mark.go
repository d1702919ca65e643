package overlayfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
)

// ErrNotWhiteout means that a name in the upper is something else.
var ErrNotWhiteout = errors.New("is not a whiteout")

// ErrHasOrigin means that a directory in the upper is, or once was, merged with
// a lower's, so that it may be only a part of the object.
var ErrHasOrigin = errors.New("was merged with a lower directory and may be incomplete without it")

func xattrPrefix(userXattr bool) string {
	if userXattr {
		return "user.overlay."
	}
	return "trusted.overlay."
}

// getxattr reads a short attribute. path is not followed if it is a link.
func getxattr(path, name string) (string, error) {
	buf := make([]byte, 256)
	n, err := unix.Lgetxattr(path, name, buf)
	if errors.Is(err, unix.ERANGE) {
		return "", nil // there, but longer than any mark
	}
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// hasMark looks for a mark in either of its two spellings: an upper may have
// been used by a privileged and by an unprivileged mount.
func hasMark(path, mark string) (value string, there bool, err error) {
	for _, user := range []bool{false, true} {
		v, err := getxattr(path, xattrPrefix(user)+mark)
		if err == nil {
			return v, true, nil
		}
		if !absentXattr(err) {
			return "", false, &os.PathError{Op: "getxattr", Path: path, Err: err}
		}
	}
	return "", false, nil
}

// absentXattr tells the errors that mean no such attribute here. trusted.*
// attributes do not exist for a process without CAP_SYS_ADMIN.
func absentXattr(err error) bool {
	return errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM)
}

// IsWhiteoutInfo reports whether fi, from an lstat in an upper, is the character
// device 0:0 that OverlayFS makes for a removed name. It cannot see the
// attribute form; see [IsWhiteout].
func IsWhiteoutInfo(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && fi.Mode().Type() == fs.ModeDevice|fs.ModeCharDevice && st.Rdev == 0
}

// IsWhiteout reports whether the path in an upper or lower directory is a
// whiteout in either form: a character device 0:0, or, as tools write into
// images, an empty regular file with an overlay.whiteout attribute in a
// directory whose opaque mark is "x" (Linux 6.7).
func IsWhiteout(path string) (bool, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return false, err
	}
	if IsWhiteoutInfo(fi) {
		return true, nil
	}
	if !fi.Mode().IsRegular() || fi.Size() != 0 {
		return false, nil
	}
	for _, user := range []bool{false, true} {
		_, err := getxattr(path, xattrPrefix(user)+"whiteout")
		if err != nil && !absentXattr(err) {
			return false, &os.PathError{Op: "getxattr", Path: path, Err: err}
		}
		// The file and its directory must be marked in the same spelling.
		if err == nil {
			if v, _ := getxattr(filepath.Dir(path), xattrPrefix(user)+"opaque"); v == "x" {
				return true, nil
			}
		}
	}
	return false, nil
}

// RemoveWhiteout unlinks the whiteout at path in an upper. The name shows the
// lower's object again after the next [Refresh], or at once where nobody looked
// it up in between. Anything but a whiteout is [ErrNotWhiteout] and stays.
func RemoveWhiteout(path string) error {
	is, err := IsWhiteout(path)
	if err != nil {
		return err
	}
	if !is {
		return fmt.Errorf("remove whiteout %q: %w", path, ErrNotWhiteout)
	}
	return os.Remove(path)
}

// Whiteouts lists the names in the directory dir of an upper that are
// whiteouts. In the root of a store's upper each of them is damage, for
// instance of a removal that was interrupted.
func Whiteouts(ctx context.Context, dir string) ([]string, error) {
	var out []string
	err := eachEntry(ctx, dir, func(e fs.DirEntry) error {
		if e.IsDir() || e.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		is, err := IsWhiteout(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if is {
			out = append(out, e.Name())
		}
		return err
	})
	return out, err
}

// IsOpaque reports whether the directory in an upper or lower hides the same
// directory of the layers below it.
func IsOpaque(dir string) (bool, error) {
	v, _, err := hasMark(dir, "opaque")
	return v == "y", err
}

// HasOrigin reports whether the directory or file in an upper carries the
// kernel's note of the lower object that it belongs to. Copy-up writes it, and
// so does the first lookup of a directory that a lower has too.
func HasOrigin(path string) (bool, error) {
	_, there, err := hasMark(path, "origin")
	return there, err
}

// SetOpaque marks the directory in an upper so that nothing below shows
// through. A mounted overlay notices when it next looks the name up. A
// directory with an origin is refused with [ErrHasOrigin]: only its contents
// can tell whether it is complete.
func SetOpaque(dir string, userXattr bool) error {
	origin, err := HasOrigin(dir)
	if err != nil {
		return err
	}
	if origin {
		return fmt.Errorf("mark %q opaque: %w", dir, ErrHasOrigin)
	}
	if err := unix.Lsetxattr(dir, xattrPrefix(userXattr)+"opaque", []byte("y"), 0); err != nil {
		return &os.PathError{Op: "mark opaque", Path: dir, Err: err}
	}
	return nil
}

// MarkComplete is SetOpaque for a directory in the root of an upper that may have an
// origin: the caller has compared its contents, and they are the whole.
func MarkComplete(dir string) error {
	initial, err := mount.InitialUserNamespace()
	if err != nil {
		return err
	}
	user := !initial || usesUserXattr(filepath.Dir(dir))
	if err := unix.Lsetxattr(dir, xattrPrefix(user)+"opaque", []byte("y"), 0); err != nil {
		return &os.PathError{Op: "mark opaque", Path: dir, Err: err}
	}
	return nil
}

// MarkOpaque marks every directory in the root of an upper that is not opaque
// yet, and returns how many. Those with an origin it leaves alone and names in
// merged: they may be parts that need their lower. It is for uppers that were
// written under a mount without xino=on; call it while the upper is not
// mounted. It costs two or three system calls per entry.
func MarkOpaque(ctx context.Context, upper string, userXattr bool) (marked int, merged []string, err error) {
	err = eachEntry(ctx, upper, func(e fs.DirEntry) error {
		if !e.IsDir() {
			return nil
		}
		dir := filepath.Join(upper, e.Name())
		if opaque, err := IsOpaque(dir); opaque || err != nil {
			return err
		}
		err := SetOpaque(dir, userXattr)
		if errors.Is(err, ErrHasOrigin) {
			merged = append(merged, e.Name())
			return nil
		}
		if err == nil {
			marked++
		}
		return err
	})
	return marked, merged, err
}

// eachEntry walks one directory without holding all of its names.
func eachEntry(ctx context.Context, dir string, do func(fs.DirEntry) error) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		list, err := f.ReadDir(1024)
		for _, e := range list {
			if err := do(e); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return ctx.Err()
		}
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
	}
}

// usesUserXattr reports whether an upper already has marks of a userxattr mount
// and none of a privileged one.
func usesUserXattr(upper string) bool {
	kind := func(user bool) bool {
		for _, mark := range []string{"opaque", "impure", "uuid", "origin"} {
			if _, err := getxattr(upper, xattrPrefix(user)+mark); err == nil {
				return true
			}
		}
		return false
	}
	return kind(true) && !kind(false)
}
