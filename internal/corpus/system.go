package corpus

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/strata-nix/strata/internal/debian"
	"github.com/strata-nix/strata/nar"
)

// System unpacks packages over each other at dst, which must not exist, as they
// would lie below the root of a Debian system, with the metadata of a store
// object. Their scripts do not run, and of files that several have the first
// stays. keep says which files are wanted, by their names from the root, "usr/bin/x".
func System(ctx context.Context, a *debian.Archive, pins []Pin, dst string, keep func(name string) bool) error {
	if err := os.Mkdir(dst, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dst)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, pin := range pins {
		file, err := a.File(ctx, pin.File, pin.SHA256)
		if err != nil {
			return err
		}
		err = debian.Files(file, func(h *tar.Header, r io.Reader) error {
			if !keep(inside(h.Name)) {
				return nil
			}
			if err := extract(root, h, r); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s: %w", h.Name, err)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("unpack %s: %w", pin.Name, err)
		}
	}
	return nar.Canonicalise(ctx, dst, nar.CanonicaliseOptions{})
}
