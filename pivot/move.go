package pivot

import (
	"bufio"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
)

// source is a NAR on its way, which is hashed.
type source struct {
	r   io.Reader
	h   hash.Hash
	err error // of reading, other than the end
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	_, _ = s.h.Write(p[:n]) // a hash does not fail
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func (s *source) buffered() *bufio.Reader { return bufio.NewReaderSize(s, readAhead) }

// check compares what was read with what was promised. Something may follow the archive.
func (s *source) check(path string, want nixhash.Hash) error {
	if _, err := io.Copy(io.Discard, s); err != nil {
		return err
	}
	if got := nixhash.Sum(nixhash.SHA256, s.h); got != want {
		s.err = store.ErrMismatch
		return &store.HashMismatchError{What: "copying path '" + path + "'", Want: want, Got: got}
	}
	return nil
}

// writable does something to an object that needs permission to write to it, which nobody has
// to a store object but root.
func writable(path string, do func() error) error {
	err := do()
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	st, statErr := os.Lstat(path)
	if statErr != nil || st.Mode()&fs.ModeSymlink != 0 || os.Chmod(path, st.Mode().Perm()|0o200) != nil {
		return err
	}
	return errors.Join(do(), os.Chmod(path, st.Mode().Perm()))
}

// move renames an object to where nothing is. To move a directory one must be able to write to
// it, unless one is root.
func move(from, to string) error {
	rename := func() error { return renameNew(from, to) }
	err := rename()
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	st, statErr := os.Lstat(from)
	if statErr != nil || !st.IsDir() || os.Chmod(from, st.Mode().Perm()|0o200) != nil {
		return err
	}
	if err := rename(); err != nil {
		return errors.Join(err, os.Chmod(from, st.Mode().Perm()))
	}
	return os.Chmod(to, st.Mode().Perm())
}

// renameNew renames to where nothing is.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // a file system without that
		there, statErr := exists(to)
		if statErr != nil {
			return statErr
		}
		if err = unix.EEXIST; !there {
			return os.Rename(from, to)
		}
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// moveIfThere moves an entry, unless somebody has done so before.
func moveIfThere(from, to string) error {
	there, err := exists(from)
	if err != nil || !there {
		return err
	}
	return move(from, to)
}

// syncDirectory puts the marks of a directory on disk; anything else has none.
func syncDirectory(path string) error {
	st, err := os.Lstat(path)
	if err != nil || !st.IsDir() {
		return err
	}
	return syncDir(path)
}

// join gives the paths of a name in two directories.
func join(a, b string) func(name string) (from, to string) {
	return func(name string) (string, string) { return filepath.Join(a, name), filepath.Join(b, name) }
}
