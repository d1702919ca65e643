package testenv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// runProbe tries one kernel feature, within namespaces made for it.
func runProbe(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want one probe, got %q", args)
	}
	if err := noPropagation(); err != nil {
		return err
	}
	switch args[0] {
	case "true":
		return nil
	case "overlay":
		return tryOverlay()
	case "erofs":
		return tryEROFS()
	}
	return fmt.Errorf("unknown probe %q", args[0])
}

// tryOverlay mounts a writable overlay on a tmpfs of its own, which shows
// whether the kernel lets this process do it, and not what a certain disk can do.
func tryOverlay() error {
	const base = "/tmp"
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, "size=1m"); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
			return err
		}
	}
	opts := "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work"
	if !inInitialUserNS() {
		opts += ",userxattr"
	}
	if err := unix.Mount("overlay", "/tmp/merged", "overlay", 0, opts); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return nil
}

// tryEROFS asks for the file system driver. The kernel loads its module by
// itself when root asks.
func tryEROFS() error {
	fd, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return errors.New("this kernel has no EROFS")
	}
	if err != nil {
		return fmt.Errorf("fsopen erofs: %w", err)
	}
	return unix.Close(fd)
}
