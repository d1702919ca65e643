package builtin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A view is the file system as a builder sees it. Paths in it are the builder's:
// the store directory stands where store objects believe it to be. It follows
// symlinks itself, one name after the other, relative to open directories, so
// that none leads out of what may be seen.
type view struct {
	b     *Build
	store []string // the names of the store directory
}

func newView(b *Build) *view { return &view{b: b, store: names(string(b.Dir))} }

// maxLinks is how many symlinks there may be on the way to something, as in the kernel.
const maxLinks = 40

func names(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" || s == "." })
}

// A place is something in a view that is not a symlink.
type place struct {
	path string // without symlinks and dots
	fd   int    // O_PATH; -1 for directories on the way to the store
	mode uint32
	// denied tells that it may be passed, but not read.
	denied bool
}

func (p *place) close() {
	if p.fd >= 0 {
		unix.Close(p.fd)
	}
}

func (p *place) isDir() bool { return p.mode&unix.S_IFMT == unix.S_IFDIR }

// open opens a file for reading, or a directory. It cannot block, as opening a
// FIFO would.
func (p *place) open() (*os.File, error) {
	if p.fd < 0 || p.denied {
		return nil, &fs.PathError{Op: "open", Path: p.path, Err: unix.EACCES}
	}
	// What is at the end of a descriptor's name cannot be another thing by now.
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(p.fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: p.path, Err: err}
	}
	return os.NewFile(uintptr(fd), p.path), nil
}

// find goes to a path. The error is a *fs.PathError, which wraps fs.ErrNotExist
// also for what may not be seen.
func (v *view) find(p string) (*place, error) {
	w := &walk{v: v, todo: names(p)}
	defer w.close()
	if !path.IsAbs(p) {
		return nil, &fs.PathError{Op: "find", Path: p, Err: errors.New("is not an absolute path")}
	}
	for len(w.todo) > 0 {
		if err := w.step(); err != nil {
			return nil, &fs.PathError{Op: "find", Path: p, Err: err}
		}
	}
	return w.take(), nil
}

// open opens what is at a path, which must be a regular file.
func (v *view) open(p string) (*os.File, error) {
	at, err := v.find(p)
	if err != nil {
		return nil, err
	}
	defer at.close()
	if at.mode&unix.S_IFMT != unix.S_IFREG {
		return nil, &fs.PathError{Op: "open", Path: p, Err: errors.New("is not a regular file")}
	}
	return at.open()
}

func (v *view) inStore(at []string) bool {
	return len(at) > len(v.store) && slices.Equal(at[:len(v.store)], v.store)
}

// A walk is on its way to a path.
type walk struct {
	v     *view
	todo  []string // names to go
	at    []string // names gone, none of them a symlink
	trail []place  // for each of them
	links int
}

func (w *walk) close() {
	for i := range w.trail {
		w.trail[i].close()
	}
}

// take gives the last place to the caller.
func (w *walk) take() *place {
	p := place{fd: -1, mode: unix.S_IFDIR, path: "/" + strings.Join(w.at, "/")}
	if n := len(w.trail); n > 0 {
		p.fd, p.mode, p.denied = w.trail[n-1].fd, w.trail[n-1].mode, w.trail[n-1].denied
		w.trail[n-1].fd = -1
	}
	return &p
}

func (w *walk) step() error {
	name := w.todo[0]
	w.todo = w.todo[1:]
	if name == ".." {
		if n := len(w.trail); n > 0 {
			w.trail[n-1].close()
			w.trail, w.at = w.trail[:n-1], w.at[:n-1]
		}
		return nil
	}
	if n := len(w.trail); n > 0 && !w.trail[n-1].isDir() {
		return unix.ENOTDIR
	}
	p, err := w.enter(name)
	if err != nil {
		return err
	}
	if p.mode&unix.S_IFMT == unix.S_IFLNK {
		defer p.close()
		return w.follow(&p)
	}
	w.at, w.trail = append(w.at, name), append(w.trail, p)
	return nil
}

// enter opens a name of where the walk is.
func (w *walk) enter(name string) (place, error) {
	v, store := w.v, w.v.store
	depth := len(w.at)
	if depth < len(store) && slices.Equal(w.at, store[:depth]) && name == store[depth] {
		return place{fd: -1, mode: unix.S_IFDIR}, nil
	}
	if depth == len(store) && slices.Equal(w.at, store) {
		return w.enterObject(name)
	}
	if v.inStore(w.at) {
		return stat(w.trail[depth-1].fd, name)
	}
	return w.enterOutside(name)
}

func (w *walk) enterOutside(name string) (p place, err error) {
	public := w.v.b.Outside == Public
	switch n := len(w.trail); {
	case w.v.b.Outside == Nothing:
		return place{}, unix.ENOENT
	case n == 0 || w.trail[n-1].fd < 0:
		p, err = stat(unix.AT_FDCWD, "/"+strings.Join(append(slices.Clone(w.at), name), "/"))
	case public && w.trail[n-1].mode&unix.S_IXOTH == 0:
		return place{}, unix.EACCES
	default:
		p, err = stat(w.trail[n-1].fd, name)
	}
	p.denied = public && p.mode&unix.S_IROTH == 0
	return p, err
}

func (w *walk) enterObject(name string) (place, error) {
	b := w.v.b
	object, err := b.Dir.Parse(string(b.Dir) + "/" + name)
	if err != nil || b.Visible != nil && !b.Visible(object) {
		return place{}, unix.ENOENT
	}
	return stat(unix.AT_FDCWD, path.Join(b.RealDir, name))
}

// stat opens a name without following it.
func stat(dir int, name string) (place, error) {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return place{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return place{}, err
	}
	return place{fd: fd, mode: st.Mode}, nil
}

// follow goes where a symlink points, from where the walk is.
func (w *walk) follow(link *place) error {
	if w.links++; w.links > maxLinks {
		return unix.ELOOP
	}
	target, err := readlink(link.fd)
	if err != nil {
		return err
	}
	if path.IsAbs(target) {
		w.close()
		w.at, w.trail = nil, nil
	}
	w.todo = append(names(target), w.todo...)
	if len(w.todo) > unix.PathMax {
		return unix.ENAMETOOLONG
	}
	return nil
}

func readlink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", fmt.Errorf("read symlink: %w", err)
	}
	return string(buf[:n]), nil
}
