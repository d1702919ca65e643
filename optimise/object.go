package optimise

import (
	"context"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Stats count what was replaced.
type Stats struct {
	Files uint64
	Bytes uint64 // of their contents
}

// Add adds up.
func (s *Stats) Add(o Stats) {
	s.Files += o.Files
	s.Bytes += o.Bytes
}

// Object links the files of the object with that name in the store directory.
// The object must not be deleted meanwhile. After an error, which names the path,
// some of its files are linked and all of them are whole.
func (l *Linker) Object(ctx context.Context, name string) (Stats, error) {
	w := walk{Linker: l, ctx: ctx}
	err := w.entry(&directory{File: l.store}, name)
	return w.stats, err
}

// walk is the way through one object.
type walk struct {
	*Linker
	ctx   context.Context
	stats Stats
}

// directory is one on the way.
type directory struct {
	*os.File
	inside  bool // the object, and thus ours to make writable
	changed bool
}

// entry looks at an entry of a directory.
func (w *walk) entry(dir *directory, name string) (err error) {
	if err := context.Cause(w.ctx); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("lstat", dir, name, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return w.directory(dir, name)
	case unix.S_IFREG, unix.S_IFLNK:
		if w.isLinked(&st) {
			return nil
		}
		return w.file(dir, name, &st)
	}
	return nil // nothing that belongs into a store; not ours to judge
}

func (w *walk) directory(parent *directory, name string) error {
	dir, err := parent.open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err = w.entry(dir, n); err != nil {
			break
		}
	}
	if sealErr := dir.seal(); err == nil {
		err = sealErr
	}
	return err
}

func (d *directory) open(name string) (*directory, error) {
	fd, err := unix.Openat(int(d.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, pathError("open", d, name, err)
	}
	return &directory{File: os.NewFile(uintptr(fd), filepath.Join(d.Name(), name)), inside: true}, nil
}

// writable tells whether the directory can be written to by its mode.
func (d *directory) writable() (bool, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(d.Fd()), &st)
	return st.Mode&unix.S_IWUSR != 0, err
}

// unseal makes a directory of an object writable.
func (d *directory) unseal() error {
	if ok, err := d.writable(); ok || err != nil || !d.inside {
		return err
	}
	return d.Chmod(0o755)
}

// seal gives a directory that was changed, by us or by one that was killed, the
// mode and time that everything in a store has.
func (d *directory) seal() error {
	if ok, err := d.writable(); err != nil || !ok && !d.changed {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: 1}}
	if err := unix.UtimesNanoAt(int(d.Fd()), "", times, unix.AT_EMPTY_PATH); err != nil {
		return pathError("utimensat", d, "", err)
	}
	return d.Chmod(0o555)
}

func pathError(op string, dir interface{ Name() string }, name string, err error) error {
	return &os.PathError{Op: op, Path: filepath.Join(dir.Name(), name), Err: err}
}
