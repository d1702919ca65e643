package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

// Directory is storage in the files of a directory, named as the objects are. It
// keeps no state, so that others may read and write the same files in the same
// way at the same time, and the directory may come and go. Symlinks are followed,
// as the parts of a large storage may lie on several disks.
//
// Nothing is forced to disk, unless it is [Directory.Durable]: after a power failure
// an object that was just stored may be missing or empty, as with stock Nix.
type Directory struct {
	root    string
	durable bool
}

// NewDirectory makes it of an absolute path, which the first Put creates if it
// is not there.
func NewDirectory(root string) (*Directory, error) {
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("directory '%s' of a storage is not absolute", root)
	}
	return &Directory{root: filepath.Clean(root)}, nil
}

// Durable is the same directory, in which an object that was stored is on disk when
// Put and Commit return, and the one that it replaces until then.
func (d *Directory) Durable() *Directory { return &Directory{root: d.root, durable: true} }

// Path is where the directory is.
func (d *Directory) Path() string { return d.root }

func (d *Directory) file(name string) string { return d.root + "/" + name }

// open opens the file of an object. What is no regular file is not an object, and
// opening it must not wait.
func (d *Directory) open(name string) (fd int, size int64, err error) {
	if err := CheckName(name); err != nil {
		return -1, 0, err
	}
	file := d.file(name)
	fd, err = retry(func() (int, error) {
		return unix.Open(file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, 0, translate(&fs.PathError{Op: "open", Path: file, Err: err})
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err != nil {
		err = &fs.PathError{Op: "fstat", Path: file, Err: err}
	} else {
		err = checkRegular("open", file, fileMode(st.Mode))
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, 0, translate(err)
	}
	return fd, st.Size, nil
}

// checkRegular refuses what is no file. A directory is where objects are, and none
// itself.
func checkRegular(op, file string, mode fs.FileMode) error {
	switch {
	case mode.IsRegular():
		return nil
	case mode.IsDir():
		return &fs.PathError{Op: op, Path: file, Err: fs.ErrNotExist}
	}
	return &fs.PathError{Op: op, Path: file, Err: errors.New("not a regular file")}
}

// translate makes the errors of files those of this package. That a file must not
// be read is not ErrForbidden: it is there.
func translate(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%w: %w", ErrNotExist, err)
	}
	return err
}

// small is up to how many bytes are read at once: an open file of Go's, which is
// offered to the poller, takes longer than they do.
const small = 64 << 10

// Get opens an object. Its reader may be an *os.File.
func (d *Directory) Get(_ context.Context, name string, o GetOptions) (io.ReadCloser, Info, error) {
	fd, size, err := d.open(name)
	if err != nil {
		return nil, Info{}, err
	}
	info := Info{Name: name, Size: size}
	from, n, err := part(d.file(name), size, o)
	if err == nil && n <= small {
		var b []byte
		if b, err = readPart(fd, d.file(name), from, n); err == nil {
			_ = unix.Close(fd) // nothing was written
			return io.NopCloser(bytes.NewReader(b)), info, nil
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, Info{}, err
	}
	f := os.NewFile(uintptr(fd), d.file(name))
	if n == size {
		return f, info, nil
	}
	return filePart{io.NewSectionReader(f, from, n), f}, info, nil
}

// readPart reads n bytes of a file from an offset on, or fewer if somebody has
// shortened it.
func readPart(fd int, file string, from, n int64) ([]byte, error) {
	b := make([]byte, n)
	for have := 0; ; {
		got, err := retry(func() (int, error) { return unix.Pread(fd, b[have:], from+int64(have)) })
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: file, Err: err}
		}
		if have += got; got == 0 || have == len(b) {
			return b[:have], nil
		}
	}
}

// fileMode tells regular files and directories from all else.
func fileMode(mode uint32) fs.FileMode {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return 0
	case unix.S_IFDIR:
		return fs.ModeDir
	}
	return fs.ModeIrregular
}

// retry repeats a system call that a signal interrupted.
func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR { //nolint:errorlint // straight from a system call
			return n, err
		}
	}
}

// filePart is a part of an open file.
type filePart struct {
	*io.SectionReader
	io.Closer
}

// Stat tells about an object.
func (d *Directory) Stat(_ context.Context, name string) (Info, error) {
	if err := CheckName(name); err != nil {
		return Info{}, err
	}
	fi, err := os.Stat(d.file(name))
	if err == nil {
		err = checkRegular("stat", d.file(name), fi.Mode())
	}
	if err != nil {
		return Info{}, translate(err)
	}
	return Info{Name: name, Size: fi.Size()}, nil
}

// temporary are the files that stock Nix, and we where there is no better way,
// write before they rename them.
var temporary = regexp.MustCompile(`\.tmp\.[0-9]+\.[0-9]+$`)

// listed is how many entries of a directory are read at once.
const listed = 1024

// List lists a directory. One that is not there is empty. Sizes are not told.
func (d *Directory) List(ctx context.Context, dir string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := d.list(ctx, dir, func(i Info) bool { return yield(i, nil) }); err != nil {
			yield(Info{}, err)
		}
	}
}

func (d *Directory) list(ctx context.Context, dir string, yield func(Info) bool) error {
	if err := checkDir(dir); err != nil {
		return err
	}
	f, err := os.Open(d.file(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return translate(err)
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(listed)
		for _, e := range entries {
			// A symlink may well be to a file; whoever opens it will see.
			if t := e.Type(); !t.IsRegular() && t&fs.ModeSymlink == 0 || temporary.MatchString(e.Name()) {
				continue
			}
			if !yield(Info{Name: path.Join(dir, e.Name()), Size: Unknown}) {
				return nil
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// Delete removes an object.
func (d *Directory) Delete(_ context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if err := os.Remove(d.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return translate(err)
	}
	return nil
}

// Put stores an object.
func (d *Directory) Put(ctx context.Context, name string, body io.Reader, o PutOptions) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if o.IfAbsent {
		if _, err := d.Stat(ctx, name); err == nil {
			return nil
		}
	}
	s, err := d.Stage(ctx, path.Dir(name))
	if err != nil {
		return err
	}
	defer s.Abort()
	n, err := io.Copy(s, &contextReader{ctx, body})
	if err == nil {
		err = checkSize(n, o.Size)
	}
	if err != nil {
		return fmt.Errorf("writing '%s': %w", d.file(name), err)
	}
	return s.Commit(ctx, name, o)
}
