package optimise

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
)

// LinksName is the directory of links, in the store directory.
const LinksName = ".links"

// Options say how files are linked.
type Options struct {
	// All is for going through a whole store: it finds out first which files are
	// linked already, so that they are not read again.
	All bool
	// Repair compares links with their names before anything is made one with them.
	Repair bool
	// Linked, if not nil, hears of each file that was replaced: its size, and the
	// 512-byte blocks that it had. It is called by several goroutines at once if
	// Object is.
	Linked func(size, blocks uint64)
	// Warn, if not nil, hears what was passed over, and why.
	Warn func(ctx context.Context, format string, args ...any)
}

// A Linker links the files of objects of one store directory. Its methods may
// be used by any number of goroutines at once. It holds the directory open.
type Linker struct {
	opts    Options
	store   *os.File
	links   *os.File
	linked  map[uint64]struct{} // inodes of links, if All
	names   atomic.Uint64       // of temporary links
	buffers sync.Pool
}

// New makes a Linker for a store directory. The caller closes it.
func New(storeDir string, o Options) (_ *Linker, err error) {
	if o.Linked == nil {
		o.Linked = func(uint64, uint64) {}
	}
	if o.Warn == nil {
		o.Warn = func(context.Context, string, ...any) {}
	}
	l := &Linker{opts: o, buffers: sync.Pool{New: func() any { return new([bufferSize]byte) }}}
	defer func() {
		if err != nil {
			_ = l.Close()
		}
	}()
	if l.store, err = os.Open(storeDir); err != nil {
		return nil, err
	}
	path := filepath.Join(storeDir, LinksName)
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // as Nix makes it
		return nil, err
	}
	if l.links, err = os.Open(path); err != nil {
		return nil, err
	}
	if o.All {
		err = l.load()
	}
	return l, err
}

// Close lets go of the directory.
func (l *Linker) Close() error {
	var err error
	for _, f := range []*os.File{l.store, l.links} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// load notes the inodes of all links.
func (l *Linker) load() error {
	l.linked = make(map[uint64]struct{})
	for {
		names, err := l.links.Readdirnames(4096)
		for _, name := range names {
			var st unix.Stat_t
			if unix.Fstatat(int(l.links.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
				l.linked[st.Ino] = struct{}{}
			}
		}
		if len(names) == 0 {
			if err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("reading %s: %w", l.links.Name(), err)
			}
			return nil
		}
	}
}

// isLinked tells that a file is known to be one of the links.
func (l *Linker) isLinked(st *unix.Stat_t) bool {
	_, ok := l.linked[st.Ino]
	return ok && st.Nlink > 1
}
