package nar

import (
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A restoreDir is a directory being filled. It is finished and closed when its
// last reference goes: one is the restorer's until the archive has ended the
// directory, and each job and each subdirectory in it holds another.
type restoreDir struct {
	fd     int
	path   string      // instead of parent and name
	name   string      // in parent
	parent *restoreDir // nil above the archive's root
	refs   atomic.Int32
}

// at is the path of an entry, or of the directory itself.
func (d *restoreDir) at(name string) string {
	if d.parent == nil {
		return d.path + name
	}
	if name == "" {
		return d.parent.at(d.name)
	}
	return d.parent.at(d.name) + "/" + name
}

func (d *restoreDir) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return pathError(op, d.at(name), err)
}

// A maker makes objects, exclusively and relative to an open directory. Its
// methods may run in parallel.
type maker struct {
	keep  bool // leave the metadata as they come
	sync  bool
	bare  bool            // the directory has no default ACL that anything could inherit
	modes [2]atomic.Int32 // for plain files and executables: what open makes of the mode
}

// What is known about the mode of a file that was just created.
const (
	modeUnknown int32 = iota
	modeExact         // it is as asked for
	modeMasked        // the umask or a default ACL took bits away
)

// make makes the object that a job describes.
func (m *maker) make(j *job) error {
	if j.target != "" {
		return m.symlink(j.dir, j.name, j.target)
	}
	fd, err := m.create(j.dir, j.name, j.executable)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err = fwrite(fd, j.data); err == nil {
		err = m.finish(fd, j.executable)
	}
	return j.dir.fail("write", j.name, err)
}

func (m *maker) mode(executable bool) uint32 {
	switch {
	case m.keep && executable:
		return 0o777
	case m.keep:
		return 0o666
	case executable:
		return 0o555
	}
	return 0o444
}

// create makes an empty file, open for writing: a mode without write permission
// counts from the next open on.
func (m *maker) create(dir *restoreDir, name string, executable bool) (int, error) {
	fd, err := openat(dir.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, m.mode(executable))
	if err != nil {
		return -1, dir.fail("create", name, err)
	}
	if m.inherits(dir) {
		if err := dropInheritedACL(fd); err != nil {
			unix.Close(fd)
			return -1, dir.fail("removexattr", name, err)
		}
	}
	return fd, nil
}

// finish gives a file that was written its metadata.
func (m *maker) finish(fd int, executable bool) error {
	if m.sync {
		// Only begins the writing, so that syncTree has less to wait for.
		unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	if m.keep {
		return nil
	}
	if err := m.fixMode(fd, executable); err != nil {
		return err
	}
	return setStoreTime(fd)
}

// fixMode sets a file's mode if creating it did not, which is known from the
// first file: the umask cannot be asked for without changing it.
func (m *maker) fixMode(fd int, executable bool) error {
	want, known := m.mode(executable), &m.modes[0]
	if executable {
		known = &m.modes[1]
	}
	if known.Load() == modeUnknown {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if st.Mode&0o7777 == want {
			known.Store(modeExact)
		} else {
			known.Store(modeMasked)
		}
	}
	if known.Load() == modeMasked {
		return unix.Fchmod(fd, want)
	}
	return nil
}

func (m *maker) symlink(dir *restoreDir, name, target string) error {
	if err := unix.Symlinkat(target, dir.fd, name); err != nil {
		return dir.fail("symlink", name, err)
	}
	if m.keep {
		return nil
	}
	return dir.fail("utimensat", name, setStoreTimeAt(dir.fd, name))
}

// directory makes a directory and opens it, with one reference for the caller.
func (m *maker) directory(dir *restoreDir, name string) (*restoreDir, error) {
	mode := uint32(0o700)
	if m.keep {
		mode = 0o777
	}
	if err := unix.Mkdirat(dir.fd, name, mode); err != nil {
		return nil, dir.fail("mkdir", name, err)
	}
	fd, err := openat(dir.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, dir.fail("open", name, err)
	}
	if m.inherits(dir) {
		// Everything below inherits from here.
		if err := dropInheritedACL(fd); err != nil {
			unix.Close(fd)
			return nil, dir.fail("removexattr", name, err)
		}
	}
	sub := &restoreDir{fd: fd, name: name, parent: dir}
	sub.refs.Store(1)
	dir.refs.Add(1)
	return sub, nil
}

// finishDirectory gives a directory its metadata; nothing will be made in it
// anymore.
func (m *maker) finishDirectory(d *restoreDir) error {
	if m.keep {
		return nil
	}
	if err := unix.Fchmod(d.fd, 0o555); err != nil {
		return err
	}
	return setStoreTime(d.fd)
}

// inherits tells whether what was made in a directory may have got an ACL with it that
// must go.
func (m *maker) inherits(dir *restoreDir) bool { return dir.parent == nil && !m.keep && !m.bare }

// dropInheritedACL removes what an object got from its parent directory's
// default ACL.
func dropInheritedACL(fd int) error {
	for _, attr := range []string{"system.posix_acl_default", "system.posix_acl_access"} {
		err := unix.Fremovexattr(fd, attr)
		switch {
		case err == nil, errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOSYS):
		default:
			return err
		}
	}
	return nil
}
