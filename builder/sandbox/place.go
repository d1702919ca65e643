package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// errForeign keeps us from writing into directories of the machine.
var errForeign = errors.New("there is no place for it, and the directory where it would be made is shown from outside")

// welcome allows to create places in a mount.
func (r *root) welcome(fd int) error {
	id, err := mountID(fd)
	if err != nil {
		return err
	}
	r.homely[id] = true
	return nil
}

func mountID(fd int) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return 0, fmt.Errorf("statx: %w", err)
	}
	return st.Mnt_id, nil
}

// parent opens the directory that a target lies in, and makes it if need be. It
// stays open until the next call.
func (r *root) parent(target string) (dir int, name string, err error) {
	up := path.Dir(target)
	if r.lastFD < 0 || r.lastDir != up {
		fd, err := r.dir(up)
		if err != nil {
			return -1, "", err
		}
		if r.lastFD >= 0 {
			unix.Close(r.lastFD)
		}
		r.lastDir, r.lastFD = up, fd
	}
	return r.lastFD, path.Base(target), nil
}

// dir opens a directory below the root, following symlinks as the builder would.
func (r *root) dir(name string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(r.fd, name, &how)
	if !errors.Is(err, unix.ENOENT) || name == "/" {
		return fd, err
	}
	up, err := r.dir(path.Dir(name))
	if err != nil {
		return -1, err
	}
	defer unix.Close(up)
	if err := r.create(up, path.Base(name), Mount{Kind: Dir}); err != nil {
		return -1, err
	}
	how.Resolve = unix.RESOLVE_NO_SYMLINKS
	return unix.Openat2(up, path.Base(name), &how)
}

// place opens the file or directory that a mount goes on.
func (r *root) place(dir int, name string, isDir bool) (int, error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(dir, name, flags, 0)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	kind := File
	if isDir {
		kind = Dir
	}
	if err := r.create(dir, name, Mount{Kind: kind}); err != nil {
		return -1, err
	}
	return unix.Openat(dir, name, flags, 0)
}

// create makes a file, directory or symlink in a directory where that is allowed.
func (r *root) create(dir int, name string, m Mount) error {
	id, err := mountID(dir)
	if err != nil {
		return err
	}
	if !r.homely[id] {
		return errForeign
	}
	switch m.Kind {
	case Dir:
		err = makeDir(dir, name, uint32(m.Mode.Perm()))
	case Symlink:
		err = unix.Symlinkat(m.Source, dir, name)
	case File:
		err = makeFile(dir, name, m.Data, uint32(m.Mode.Perm()))
	}
	if err != nil || r.owner == nil {
		return err
	}
	return unix.Fchownat(dir, name, r.owner[0], r.owner[1], unix.AT_SYMLINK_NOFOLLOW)
}

// makeDir makes a directory, or sees that there is one.
func makeDir(dir int, name string, perm uint32) error {
	err := unix.Mkdirat(dir, name, 0o755)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if perm == 0 {
		return nil
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fchmod(fd, perm)
}

func makeFile(dir int, name string, data []byte, perm uint32) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if perm == 0 {
		perm = 0o444
	}
	return unix.Fchmod(fd, perm)
}
