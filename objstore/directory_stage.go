package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Stage begins an object in the file system in which it will be. Small ones are
// written when they are committed.
func (d *Directory) Stage(_ context.Context, dir string) (Staged, error) {
	return &stagedFile{d: d, dir: d.file(dir), mem: spoolBuffers.Get().(*bytes.Buffer)}, nil
}

// stagedFile is a file without a name.
type stagedFile struct {
	d    *Directory
	dir  string
	mem  *bytes.Buffer // what is not in the file yet; nil: ended
	file *os.File      // nil: not needed yet
	name string        // of the file, where a file must have one
}

// writeSize is how many bytes are given to the file system at once.
const writeSize = stagedInMemory

func (s *stagedFile) Write(p []byte) (int, error) {
	if s.mem.Len()+len(p) <= writeSize {
		return s.mem.Write(p)
	}
	if err := s.flush(); err != nil {
		return 0, err
	}
	if len(p) < writeSize/2 {
		return s.mem.Write(p)
	}
	return s.file.Write(p)
}

// flush writes what is in memory.
func (s *stagedFile) flush() error {
	if s.file == nil {
		if err := s.create(); err != nil {
			return err
		}
	}
	_, err := s.file.Write(s.mem.Bytes())
	s.mem.Reset()
	return err
}

func (s *stagedFile) create() (err error) {
	s.file, s.name, err = createIn(s.dir)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(s.dir, 0o777); err != nil {
			return err
		}
		s.file, s.name, err = createIn(s.dir)
	}
	return err
}

func (s *stagedFile) Commit(_ context.Context, name string, o PutOptions) error {
	defer s.Abort()
	if err := CheckName(name); err != nil {
		return err
	}
	if o.ContentEncoding != "" {
		return fmt.Errorf("writing '%s': a directory cannot note an encoding: %w", s.d.file(name), errors.ErrUnsupported)
	}
	target := s.d.file(name)
	if o.IfAbsent {
		if _, err := os.Lstat(target); err == nil {
			return nil
		}
	}
	if err := s.flush(); err != nil {
		return translate(err)
	}
	err := s.publish(target, o.IfAbsent)
	if errors.Is(err, os.ErrNotExist) {
		// The object is to lie in another directory than was said, and that is not there.
		if err = os.MkdirAll(filepath.Dir(target), 0o777); err == nil {
			err = s.publish(target, o.IfAbsent)
		}
	}
	if err == nil && s.d.durable {
		err = s.d.syncNames(filepath.Dir(target))
	}
	return translate(err)
}

// syncNames has the names in a directory on disk, and its own, up to the root.
func (d *Directory) syncNames(dir string) error {
	for {
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		err = f.Sync()
		if err = errors.Join(err, f.Close()); err != nil || len(dir) <= len(d.root) {
			return err
		}
		dir = filepath.Dir(dir)
	}
}

// publish gives the file its name.
func (s *stagedFile) publish(target string, keep bool) error {
	if err := s.sync(); err != nil {
		return err
	}
	if s.name == "" {
		err := linkFile(s.file, target)
		if err == nil || keep && errors.Is(err, os.ErrExist) {
			return nil
		}
		if err := s.christen(target, err); err != nil {
			return err
		}
	}
	if err := os.Rename(s.name, target); err != nil {
		return err
	}
	s.name = ""
	return nil
}

// sync has the contents on disk, if they are to be there before anybody sees them.
func (s *stagedFile) sync() error {
	if !s.d.durable {
		return nil
	}
	return s.file.Sync()
}

// christen gives the file a name beside target, to be renamed, after a link to target
// failed with err: a link replaces nothing, and some file systems have none.
func (s *stagedFile) christen(target string, err error) error {
	name := temporaryName(target)
	if errors.Is(err, os.ErrExist) {
		if err := linkFile(s.file, name); err != nil {
			return err
		}
		s.name = name
		return nil
	}
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	named, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	unnamed := s.file
	s.file, s.name = named, name
	_, err = unnamed.Seek(0, io.SeekStart)
	if err == nil {
		_, err = io.Copy(named, unnamed)
	}
	if err == nil {
		err = s.sync()
	}
	return errors.Join(err, unnamed.Close())
}

func (s *stagedFile) Abort() {
	if s.mem == nil {
		return
	}
	s.mem.Reset()
	spoolBuffers.Put(s.mem)
	s.mem = nil
	if s.name != "" {
		_ = os.Remove(s.name) // garbage that nobody looks at
	}
	if s.file != nil {
		_ = s.file.Close() // writes were looked at one by one
	}
}

// createIn makes a file in a directory, without a name where the file system has
// such files: then nothing stays of it when we are killed.
func createIn(dir string) (f *os.File, name string, err error) {
	fd, err := unix.Open(dir, unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, 0o666)
	switch {
	case err == nil && linkable():
		return os.NewFile(uintptr(fd), filepath.Join(dir, "unnamed")), "", nil
	case err == nil:
		_ = unix.Close(fd)
	case !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EINVAL):
		return nil, "", &os.PathError{Op: "open", Path: dir, Err: err}
	}
	name = temporaryName(filepath.Join(dir, "strata"))
	f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	return f, name, err
}

// tempFile makes a file without a name, for nobody else.
func tempFile(dir string) (*os.File, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	f, err := os.CreateTemp(dir, "strata-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// temporaryCount begins anywhere, as a process in another container may have our
// number.
var temporaryCount = func() *atomic.Uint64 {
	c := new(atomic.Uint64)
	c.Store(uint64(rand.Uint32()))
	return c
}()

// temporaryName is beside target, in the form that stock Nix uses too.
func temporaryName(target string) string {
	return target + ".tmp." + strconv.Itoa(os.Getpid()) + "." + strconv.FormatUint(temporaryCount.Add(1), 10)
}

// linkFile gives a file without a name one.
func linkFile(f *os.File, name string) error {
	from := procFile(int(f.Fd()))
	if err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &os.LinkError{Op: "link", Old: from, New: name, Err: err}
	}
	return nil
}

func procFile(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// linkable tells that files without names can be given some, for which /proc is
// needed.
var linkable = sync.OnceValue(func() bool {
	var st unix.Stat_t
	return unix.Stat("/proc/self/fd", &st) == nil
})
