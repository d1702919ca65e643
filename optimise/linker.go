package optimise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// LinksName is the directory of links, in the store directory.
const LinksName = ".links"

// Options say how files are linked.
type Options struct {
	// All is for going through a whole store: it finds out first which files are
	// linked already, so that they are not read again. Then each object must be counted
	// ([Linker.Count]) before the first is linked.
	All bool
	// Layer is where the objects really are, if the store directory is a merged one: the upper
	// layer. Its .links must hide those of lowers.
	Layer string
	// Repair compares links with their names before anything is made one with them.
	Repair bool
	// DryRun changes nothing.
	DryRun bool
	// Reflink says when blocks are shared instead.
	Reflink Reflink
	// Linked, if not nil, hears of each file that was replaced: its size, and the
	// 512-byte blocks that it had. It is called by several goroutines at once.
	Linked func(size, blocks uint64)
	// Warn, if not nil, hears what was passed over, and why.
	Warn func(ctx context.Context, format string, args ...any)
}

// A Linker links the files of objects of one store directory. Its methods may
// be used by any number of goroutines at once. It holds the directory open.
type Linker struct {
	opts    Options
	store   *os.File // changes are made here
	objects *os.File // and objects are looked at here
	links   *os.File
	known   *os.File            // the links, as objects are looked at; nil: there are none, in a dry run
	linked  map[uint64]struct{} // inodes of links, if All
	sizes   *census             // if All
	firsts  firsts              // what would be links, in a dry run
	names   atomic.Uint64       // of temporary links
	buffers sync.Pool
	helpers chan struct{} // one for each goroutine beyond those of the callers
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
	l.helpers = make(chan struct{}, runtime.GOMAXPROCS(0)-1)
	defer func() {
		if err != nil {
			_ = l.Close()
		}
	}()
	if l.store, err = os.Open(storeDir); err != nil {
		return nil, err
	}
	l.objects = l.store
	if o.Layer != "" {
		if l.objects, err = os.Open(o.Layer); err != nil {
			return nil, err
		}
	}
	if err := l.openLinks(); err != nil {
		return nil, err
	}
	if o.DryRun {
		l.firsts.inodes = make(map[string]uint64)
	}
	if o.All {
		l.sizes = newCensus()
		err = l.load()
	}
	return l, err
}

// openLinks opens the directory of links, made if it is not there.
func (l *Linker) openLinks() (err error) {
	path := filepath.Join(l.store.Name(), LinksName)
	if !l.opts.DryRun {
		if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // as Nix makes it
			return err
		}
	}
	if l.links, err = os.Open(path); err != nil {
		if l.opts.DryRun && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	l.known = l.links
	if l.opts.Layer == "" {
		return nil
	}
	if l.known, err = os.Open(filepath.Join(l.opts.Layer, LinksName)); l.opts.DryRun && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Close lets go of the directory.
func (l *Linker) Close() error {
	var err error
	for _, f := range []*os.File{l.store, l.links} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	if l.opts.Layer != "" {
		for _, f := range []*os.File{l.objects, l.known} {
			if f != nil {
				err = errors.Join(err, f.Close())
			}
		}
	}
	return err
}

// load notes the inodes and the sizes of all links.
func (l *Linker) load() error {
	l.linked = make(map[uint64]struct{})
	if l.known == nil {
		return nil
	}
	for {
		names, err := l.known.Readdirnames(4096)
		for _, name := range names {
			var st unix.Stat_t
			if unix.Fstatat(int(l.known.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
				l.linked[st.Ino] = struct{}{}
				l.sizes.several(st.Size)
			}
		}
		if len(names) == 0 {
			if err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("reading %s: %w", l.known.Name(), err)
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

// firsts are, in a dry run, the files that would be the first of their kind.
type firsts struct {
	mu     sync.Mutex
	inodes map[string]uint64
}

// meet gives the inode that a file with this hash would be made one with: its own if it is the
// first.
func (f *firsts) meet(hash string, ino uint64) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if first, ok := f.inodes[hash]; ok {
		return first
	}
	f.inodes[hash] = ino
	return ino
}
