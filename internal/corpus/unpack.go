package corpus

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/debian"
)

// unpack extracts the files of a .deb to dst, which must not exist, and gives
// them the metadata of a store object. Hard links become copies. Nothing is
// written outside of dst, whatever the names in the package say.
func unpack(deb, dst string) error {
	if err := os.Mkdir(dst, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dst)
	if err != nil {
		return err
	}
	defer root.Close()
	err = debian.Files(deb, func(h *tar.Header, r io.Reader) error {
		if err := extract(root, h, r); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("unpack %s: %w", deb, err)
	}
	return canonicalise(dst)
}

func extract(root *os.Root, h *tar.Header, r io.Reader) error {
	name := inside(h.Name)
	if name == "." {
		return nil
	}
	switch h.Typeflag {
	case tar.TypeDir:
		err := root.Mkdir(name, 0o755)
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	case tar.TypeReg:
		return writeFile(root, name, r, h.FileInfo().Mode())
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		src, err := root.Open(inside(h.Linkname))
		if err != nil {
			return err
		}
		defer src.Close()
		fi, err := src.Stat()
		if err != nil {
			return err
		}
		return writeFile(root, name, src, fi.Mode())
	}
	return fmt.Errorf("unsupported type %q", h.Typeflag)
}

// inside is a name of the archive relative to its root, "." for the root itself.
func inside(name string) string {
	if rel := path.Clean("/" + name)[1:]; rel != "" {
		return rel
	}
	return "."
}

func writeFile(root *os.Root, name string, r io.Reader, mode fs.FileMode) error {
	perm := fs.FileMode(0o644)
	if mode&0o100 != 0 {
		perm = 0o755
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// canonicalise gives a tree the metadata of a store object: files 0444 or
// 0555, directories 0555, time stamp 1, of symlinks too.
func canonicalise(tree string) error {
	var dirs []string
	err := filepath.WalkDir(tree, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			dirs = append(dirs, p) // later: making their files touches them
			return nil
		case d.Type() == fs.ModeSymlink:
			return stamp(p)
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		return errors.Join(os.Chmod(p, 0o444|fi.Mode()&0o111), stamp(p))
	})
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) {
		if err := errors.Join(os.Chmod(d, 0o555), stamp(d)); err != nil {
			return err
		}
	}
	return nil
}

// stamp sets the time stamps of a file, or of a symlink itself, to one second
// after the epoch.
func stamp(p string) error {
	times := []unix.Timespec{{Sec: 1}, {Sec: 1}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, p, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: p, Err: err}
	}
	return nil
}
