package nar

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// DumpRange writes the bytes from..to of the archive of the file system object
// at path, to not among them; less if the archive ends before. Of files whose
// contents are not in the range only the size is asked for, so that the cost of
// a range is its length and the number of files before it. The rules of Dump hold
// for what is read, and so do its errors.
func DumpRange(ctx context.Context, w io.Writer, path string, from, to int64) error {
	if from < 0 || to < from {
		return fmt.Errorf("dump '%s': no range from %d to %d", path, from, to)
	}
	buf := bulkPool.Get().(*[bulkSize]byte)
	defer bulkPool.Put(buf)
	s := newSurveyor(ctx, path)
	s.w, s.bulk, s.from, s.to = bufio.NewWriter(w), buf[:], from, to
	if _, err := s.root(); err != nil && !errors.Is(err, errBeyond) {
		return err
	}
	return s.w.Flush()
}

// ListTree lists the archive of the file system object at path, with the offsets
// that files have in it, without reading any file.
func ListTree(ctx context.Context, path string) (*Listing, error) {
	s := newSurveyor(ctx, path)
	s.keep = true
	root, err := s.root()
	if err != nil {
		return nil, err
	}
	return &Listing{Root: root}, nil
}

// errBeyond ends a survey behind the range that is wanted.
var errBeyond = errors.New("behind the range")

// A surveyor walks a tree in the order of its archive and knows at each object
// where in the archive it is. What lies in the range goes to w.
type surveyor struct {
	dumper   // opens, and knows the way for errors; it has no output
	ctx      context.Context
	pos      int64 // in the archive
	keep     bool  // what is in directories
	from, to int64
	w        *bufio.Writer // nil: nothing is wanted but the list
	bulk     []byte
	frame    []byte // scratch
}

func newSurveyor(ctx context.Context, path string) *surveyor {
	return &surveyor{ctx: ctx, dumper: dumper{trail: trail{root: filepath.Clean(path)}}}
}

func (s *surveyor) root() (*Node, error) {
	if err := s.emit(appendOpen(s.frame[:0])); err != nil {
		return nil, err
	}
	return s.object(unix.AT_FDCWD, dirEntry{name: s.trail.root}, 0)
}

// emit writes what is wanted of the next bytes of the archive.
func (s *surveyor) emit(b []byte) error {
	s.frame = b
	begin := s.pos
	s.pos += int64(len(b))
	if s.w == nil || s.pos <= s.from {
		return nil
	}
	b = b[max(s.from-begin, 0):min(s.to-begin, int64(len(b)))]
	if _, err := s.w.Write(b); err != nil {
		return err
	}
	if s.pos >= s.to {
		return errBeyond
	}
	return nil
}

// object surveys what follows the "type" token, and the end of the object.
func (s *surveyor) object(dirfd int, e dirEntry, depth int) (n *Node, err error) {
	if err := context.Cause(s.ctx); err != nil {
		return nil, err
	}
	if depth == MaxDepth {
		return nil, s.fail("dump", ErrTooDeep)
	}
	typ, err := e.typeAt(dirfd)
	if err != nil {
		return nil, s.fail("lstat", err)
	}
	switch typ {
	case unix.DT_REG:
		n, err = s.regular(dirfd, e.name)
	case unix.DT_DIR:
		n, err = s.directory(dirfd, e.name, depth)
	case unix.DT_LNK:
		n, err = s.symlink(dirfd, e.name)
	default:
		err = s.fail("dump", ErrUnsupportedType)
	}
	if err != nil {
		return nil, err
	}
	return n, s.emit(appendClose(s.frame[:0], depth))
}

func (s *surveyor) regular(dirfd int, name string) (*Node, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, s.fail("lstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, s.fail("lstat", ErrChanged)
	}
	n := &Node{Type: TypeRegular, Executable: st.Mode&unix.S_IXUSR != 0, Size: st.Size}
	if err := s.emit(appendRegular(s.frame[:0], n.Executable, n.Size)); err != nil {
		return nil, err
	}
	n.Offset = s.pos
	if err := s.contents(dirfd, name, n); err != nil {
		return nil, err
	}
	return n, s.emit(appendPadding(s.frame[:0], n.Size))
}

// contents reads what is wanted of a file.
func (s *surveyor) contents(dirfd int, name string, n *Node) error {
	begin := s.pos
	s.pos += n.Size
	if s.w == nil || s.pos <= s.from || n.Size == 0 {
		return nil
	}
	var st unix.Stat_t
	fd, err := s.open(dirfd, name, 0, unix.S_IFREG, &st)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if st.Size != n.Size {
		return s.fail("read", ErrChanged)
	}
	at, end := max(s.from-begin, 0), min(s.to-begin, n.Size)
	for at < end {
		if err := context.Cause(s.ctx); err != nil {
			return err
		}
		k, err := retry(func() (int, error) { return unix.Pread(fd, s.bulk[:min(end-at, bulkSize)], at) })
		if err != nil {
			return s.fail("read", err)
		}
		if k == 0 {
			return s.fail("read", ErrChanged)
		}
		if _, err := s.w.Write(s.bulk[:k]); err != nil {
			return err
		}
		at += int64(k)
	}
	if s.pos >= s.to {
		return errBeyond
	}
	return nil
}

func (s *surveyor) symlink(dirfd int, name string) (*Node, error) {
	target, err := readlinkat(dirfd, name)
	if err == unix.EINVAL {
		return nil, s.fail("readlink", ErrChanged)
	} else if err != nil {
		return nil, s.fail("readlink", err)
	}
	if reason := checkTarget(target); reason != "" {
		return nil, s.fail("readlink", errors.New(reason))
	}
	return &Node{Type: TypeSymlink, Target: target}, s.emit(appendSymlink(s.frame[:0], target))
}

func (s *surveyor) directory(dirfd int, name string, depth int) (*Node, error) {
	var st unix.Stat_t
	fd, err := s.open(dirfd, name, unix.O_DIRECTORY, unix.S_IFDIR, &st)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	list, err := readDirectory(fd)
	if err != nil {
		return nil, s.fail("readdir", err)
	}
	slices.SortFunc(list, func(a, b dirEntry) int { return cmp.Compare(a.name, b.name) })
	if err := s.emit(append(s.frame[:0], tokDirectory...)); err != nil {
		return nil, err
	}
	n := &Node{Type: TypeDirectory}
	for _, e := range list {
		s.trail.push(e.name)
		if err := s.emit(appendEntry(s.frame[:0], e.name)); err != nil {
			return nil, err
		}
		inside, err := s.object(fd, e, depth+1)
		if err != nil {
			return nil, err
		}
		if s.keep {
			n.Entries = append(n.Entries, DirEntry{e.name, inside})
		}
		s.trail.pop()
	}
	return n, nil
}
