package corpus

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/strata-nix/strata/internal/debian"
	"github.com/strata-nix/strata/nar"
)

// unpack extracts the files of a .deb to dst, which must not exist, and gives
// them the metadata of a store object. Hard links become copies. Nothing is
// written outside of dst, whatever the names in the package say.
func unpack(ctx context.Context, deb, dst string) error {
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
	return nar.Canonicalise(ctx, dst, nar.CanonicaliseOptions{})
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
