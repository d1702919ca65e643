package merge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// A Copier copies objects from one directory to another. Contents are shared with the
// original where the file system can do that (FICLONE), never inodes; files that were hard
// links of one another are so again. Its methods may be used by any number of
// goroutines at once.
type Copier struct {
	to      *os.File
	mu      sync.Mutex
	links   map[inode]*linked // files with several names that are copied, or under way
	noClone sync.Map          // devices whose files cannot be cloned to here
	shared  atomic.Uint64
}

type inode struct{ dev, ino uint64 }

// linked is a file that others are to be links of. done is closed when it is there; path is ""
// if it could not be copied.
type linked struct {
	done chan struct{}
	path string // from the directory that is copied to
}

// NewCopier makes a Copier to a directory. The caller closes it.
func NewCopier(to string) (*Copier, error) {
	dir, err := os.OpenFile(to, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &Copier{to: dir, links: make(map[inode]*linked)}, nil
}

// Close lets go of the directory.
func (c *Copier) Close() error { return c.to.Close() }

// Shared is how many bytes of contents take no space of their own.
func (c *Copier) Shared() uint64 { return c.shared.Load() }

// Copy copies an object, under the same name, and compares what is there then with
// its hash ([store.HashMismatchError]). Metadata are those that everything in a store has. It is not synced.
// After an error something may be there.
func (c *Copier) Copy(ctx context.Context, from string, p storepath.Path, want nixhash.Hash) error {
	dir, err := os.OpenFile(from, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	t := tree{Copier: c, ctx: ctx}
	if err := t.entry(dir, c.to, p.Base(), p.Base(), 1); err != nil {
		return fmt.Errorf("copy '%s': %w", filepath.Join(from, p.Base()), err)
	}
	return verify(ctx, c.to, p, want, from)
}

// verify hashes an object of a directory. source is where it came from.
func verify(ctx context.Context, dir *os.File, p storepath.Path, want nixhash.Hash, source string) error {
	h := nixhash.SHA256.New()
	if err := nar.DumpAt(ctx, h, dir, p.Base()); err != nil {
		return err
	}
	return compare(h.Sum(nil), p, want, source)
}

func compare(sum []byte, p storepath.Path, want nixhash.Hash, source string) error {
	got, err := nixhash.New(nixhash.SHA256, sum)
	if err == nil && got != want {
		err = &store.HashMismatchError{What: fmt.Sprintf("object '%s'", filepath.Join(source, p.Base())), Want: want, Got: got}
	}
	return err
}

// tree is the way through one object.
type tree struct {
	*Copier
	ctx context.Context
}

// entry copies something between directories. path is its place below the directory that is
// copied to.
func (t *tree) entry(from, to *os.File, name, path string, depth int) error {
	if err := context.Cause(t.ctx); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(from.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	if depth > nar.MaxDepth {
		return fmt.Errorf("'%s' %w", path, nar.ErrTooDeep)
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return t.directory(from, to, name, path, depth)
	case unix.S_IFLNK:
		err = copySymlink(from, to, name, st.Size)
	case unix.S_IFREG:
		err = t.file(from, to, name, path, &st)
	default:
		err = nar.ErrUnsupportedType
	}
	if err != nil {
		err = fmt.Errorf("'%s': %w", path, err)
	}
	return err
}

func (t *tree) directory(from, to *os.File, name, path string, depth int) error {
	source, err := openDirAt(from, name)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer source.Close()
	if err := unix.Mkdirat(int(to.Fd()), name, 0o700); err != nil {
		return &fs.PathError{Op: "mkdir", Path: path, Err: err}
	}
	target, err := openDirAt(to, name)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer target.Close()
	names, err := source.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := t.entry(source, target, n, path+"/"+n, depth+1); err != nil {
			return err
		}
	}
	return errors.Join(target.Chmod(0o555), setTime(int(target.Fd()), "", unix.AT_EMPTY_PATH))
}

func openDirAt(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// setTime gives something the time that everything in a store has.
func setTime(dir int, name string, flags int) error {
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: 1}}, flags)
}

func copySymlink(from, to *os.File, name string, size int64) error {
	buf := make([]byte, size+1)
	n, err := unix.Readlinkat(int(from.Fd()), name, buf)
	if err != nil {
		return err
	}
	if int64(n) != size {
		return nar.ErrChanged
	}
	if err := unix.Symlinkat(string(buf[:n]), int(to.Fd()), name); err != nil {
		return err
	}
	return setTime(int(to.Fd()), name, unix.AT_SYMLINK_NOFOLLOW)
}

// file copies a file, or makes a link to what one with the same inode was copied to.
func (t *tree) file(from, to *os.File, name, path string, st *unix.Stat_t) error {
	if st.Nlink < 2 {
		return t.contents(from, to, name, st)
	}
	key := inode{st.Dev, st.Ino}
	t.mu.Lock()
	first, copied := t.links[key]
	mine := &linked{done: make(chan struct{})}
	if !copied {
		t.links[key] = mine
	}
	t.mu.Unlock()
	if copied {
		select {
		case <-first.done:
		case <-t.ctx.Done():
			return context.Cause(t.ctx)
		}
		if first.path != "" && unix.Linkat(int(t.to.Fd()), first.path, int(to.Fd()), name, 0) == nil {
			t.shared.Add(uint64(st.Size)) //nolint:gosec // sizes are not negative
			return nil
		}
		return t.contents(from, to, name, st) // it has as many names as there can be
	}
	err := t.contents(from, to, name, st)
	if err == nil {
		mine.path = path
	}
	close(mine.done)
	return err
}

// contents copies a file.
func (t *tree) contents(from, to *os.File, name string, st *unix.Stat_t) error {
	source, err := openFileAt(from, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := openFileAt(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = t.share(source, target, st)
	perm := fs.FileMode(0o444)
	if st.Mode&unix.S_IXUSR != 0 {
		perm = 0o555
	}
	if err == nil {
		err = errors.Join(target.Chmod(perm), setTime(int(target.Fd()), "", unix.AT_EMPTY_PATH))
	}
	return errors.Join(err, target.Close())
}

// share clones the contents or, where that cannot be, copies them.
func (t *tree) share(source, target *os.File, st *unix.Stat_t) error {
	if st.Size == 0 {
		return nil
	}
	if _, no := t.noClone.Load(st.Dev); !no {
		if err := unix.IoctlFileClone(int(target.Fd()), int(source.Fd())); err == nil {
			t.shared.Add(uint64(st.Size)) //nolint:gosec // sizes are not negative
			return nil
		}
		t.noClone.Store(st.Dev, true)
	}
	// Copying is done within the kernel where it can be (copy_file_range).
	n, err := io.Copy(target, source)
	if err == nil && n != st.Size {
		err = nar.ErrChanged
	}
	return err
}

func openFileAt(dir *os.File, name string, flags int, perm uint32) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
