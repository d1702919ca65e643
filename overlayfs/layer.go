package overlayfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
)

// layer is one directory of a mount to be, held open so that what was checked
// is what is mounted.
type layer struct {
	role string
	path string // as the caller spelled it
	real string // resolved
	fd   int    // O_PATH
	dev  uint64
	ino  uint64
	id   mount.ID
	fs   unix.Statfs_t
}

func openLayer(role, path string) (*layer, error) {
	fail := func(err error, detail string) (*layer, error) {
		return nil, &LayerError{Role: role, Path: path, Err: err, Detail: detail}
	}
	if path == "" || strings.IndexByte(path, 0) >= 0 {
		return fail(ErrBadPath, "")
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return fail(ErrMissing, "")
	case errors.Is(err, unix.ENOTDIR):
		if _, err := os.Stat(path); errors.Is(err, unix.ENOTDIR) {
			return fail(ErrMissing, "a parent is not a directory")
		}
		return fail(ErrNotDirectory, "")
	case err != nil:
		return fail(err, "")
	}
	l := &layer{role: role, path: path, fd: fd}
	if err := l.look(); err != nil {
		l.close()
		return fail(err, "")
	}
	return l, nil
}

func (l *layer) look() error {
	var st unix.Stat_t
	if err := unix.Fstat(l.fd, &st); err != nil {
		return err
	}
	l.dev, l.ino = st.Dev, st.Ino
	if err := unix.Fstatfs(l.fd, &l.fs); err != nil {
		return err
	}
	var err error
	if l.id, err = mount.IdentifyFD(l.fd); err != nil && !errors.Is(err, mount.ErrNoMountIDs) {
		return err
	}
	// One system call instead of a walk; without /proc nothing else works.
	l.real, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", l.fd))
	return err
}

func (l *layer) close() { unix.Close(l.fd) }

func (l *layer) errorf(err error, other *layer, format string, args ...any) error {
	e := &LayerError{Role: l.role, Path: l.path, Err: err, Detail: fmt.Sprintf(format, args...)}
	if other != nil {
		e.Other = other.path
	}
	return e
}

// name is what the kernel and the record are told: the caller's spelling, so
// that it is found again in the mount table, unless it depends on the working
// directory or is not the shortest one.
func (l *layer) name() string {
	if filepath.IsAbs(l.path) && filepath.Clean(l.path) == l.path {
		return l.path
	}
	return l.real
}

// same reports whether two layers are one directory, also through bind mounts.
func (l *layer) same(o *layer) bool { return l.dev == o.dev && l.ino == o.ino }

// contains reports whether o is l or lies inside it, going by resolved names
// within one mount. What it cannot see through bind mounts, the kernel refuses
// with ELOOP.
func (l *layer) contains(o *layer) bool {
	if l.same(o) {
		return true
	}
	return l.dev == o.dev && l.id.Mount == o.id.Mount && under(o.real, l.real)
}

// under reports whether path is strictly inside dir; both are clean.
func under(path, dir string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// layers are all directories of a mount.
type layers struct {
	lowers      []*layer
	upper, work *layer
	target      *layer
}

func openLayers(o Options) (ls *layers, err error) {
	ls = &layers{}
	defer func() {
		if err != nil {
			ls.close()
		}
	}()
	switch n := len(o.Lowers); {
	case n == 0:
		return ls, &LayerError{Role: "lowers", Err: ErrNoLowers}
	case n > MaxLowers:
		return ls, &LayerError{Role: "lowers", Err: ErrTooManyLowers,
			Detail: fmt.Sprintf("%d given, the kernel takes %d; keep to %d or fewer", n, MaxLowers, AdvisedLowers)}
	case (o.Upper == "") != (o.Work == ""):
		return ls, &LayerError{Role: "upper", Path: o.Upper, Err: ErrUpperWithoutWork}
	}
	if ls.target, err = openLayer("target", o.Target); err != nil {
		return ls, err
	}
	for i, path := range o.Lowers {
		l, err := openLayer(fmt.Sprintf("lower %d", i+1), path)
		if err != nil {
			return ls, err
		}
		ls.lowers = append(ls.lowers, l)
	}
	if o.Upper == "" {
		return ls, nil
	}
	if ls.upper, err = openLayer("upper", o.Upper); err != nil {
		return ls, err
	}
	ls.work, err = openLayer("work", o.Work)
	return ls, err
}

func (ls *layers) close() {
	for _, l := range ls.all() {
		l.close()
	}
	if ls.target != nil {
		ls.target.close()
	}
}

// all lists the opened layers, without the target.
func (ls *layers) all() []*layer {
	out := append([]*layer(nil), ls.lowers...)
	for _, l := range []*layer{ls.upper, ls.work} {
		if l != nil {
			out = append(out, l)
		}
	}
	return out
}

// absolute makes a path that is to be compared fit for it.
func absolute(path string) string {
	if path == "" {
		return ""
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
