package optimise

import (
	"context"
	"errors"
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
	store   *handle // changes are made here
	objects *handle // and objects are looked at here
	links   *handle
	known   *handle             // the links, as objects are looked at; nil: there are none, in a dry run
	linked  map[uint64]struct{} // inodes of links, if All
	sizes   *census             // if All
	firsts  firsts              // what would be links, in a dry run
	names   atomic.Uint64       // of temporary links
	buffers sync.Pool
	temp    string       // what their names begin with
	busy    atomic.Int64 // goroutines that walk
	most    int64        // of them, unless the callers have more
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
	l.most = int64(runtime.GOMAXPROCS(0))
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if l.temp, err = newTempName(); err != nil {
		return nil, err
	}
	if l.store, err = openHandle(storeDir); err != nil {
		return nil, err
	}
	l.objects = l.store
	if o.Layer != "" {
		if l.objects, err = openHandle(o.Layer); err != nil {
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
	path := filepath.Join(l.store.name, LinksName)
	if !l.opts.DryRun {
		if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // as Nix makes it
			return err
		}
	}
	if l.links, err = openHandle(path); err != nil {
		if l.opts.DryRun && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	l.known = l.links
	if l.opts.Layer == "" {
		return nil
	}
	if l.known, err = openHandle(filepath.Join(l.opts.Layer, LinksName)); l.opts.DryRun && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Close lets go of the directory.
func (l *Linker) Close() error {
	for _, h := range []*handle{l.store, l.links} {
		if h != nil {
			h.close()
		}
	}
	if l.opts.Layer != "" {
		for _, h := range []*handle{l.objects, l.known} {
			if h != nil {
				h.close()
			}
		}
	}
	return nil
}

// load notes the inodes and the sizes of all links.
func (l *Linker) load() error {
	l.linked = make(map[uint64]struct{})
	if l.known == nil {
		return nil
	}
	entries, err := (&directory{read: l.known}).entries()
	for _, e := range entries {
		var st unix.Stat_t
		if unix.Fstatat(l.known.fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			l.linked[st.Ino] = struct{}{}
			l.sizes.several(st.Size)
		}
	}
	return err
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
