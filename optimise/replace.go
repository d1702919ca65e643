package optimise

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/crashpoint"
)

// replace puts a link in the place of a file, and tells whether it did.
func (w *walk) replace(dir *directory, name, link string) (bool, error) {
	to, err := dir.to(w.Linker)
	if err != nil {
		return false, err
	}
	store := w.store.fd
	temp := w.temp + strconv.FormatUint(w.names.Add(1), 10)
	switch err := unix.Linkat(w.links.fd, link, store, temp, 0); {
	case err == nil:
	case errors.Is(err, unix.EMLINK), errors.Is(err, unix.ENOENT):
		return false, nil // as many as there can be; or just collected
	default:
		return false, w.store.fail("link", temp, err)
	}
	crashpoint.Reached("optimise: temporary link made")
	// A rename does nothing if the two are one already.
	defer func() { _ = unix.Unlinkat(store, temp, 0) }()
	for tries := 1; ; tries++ {
		if !dir.changed || tries > 1 {
			if err := dir.unseal(w.Linker); err != nil {
				return false, err
			}
			dir.changed = true
		}
		crashpoint.Reached("optimise: directory unsealed")
		switch err := unix.Renameat(store, temp, to.fd, name); {
		case err == nil:
			crashpoint.Reached("optimise: file replaced")
			return true, nil
		case errors.Is(err, unix.EMLINK):
			return false, nil // some file systems find out only now
		case errors.Is(err, unix.EACCES) && tries < 5:
			// Another run, over the same object, has just sealed the directory.
		default:
			return false, dir.read.fail("replace", name, err)
		}
	}
}
