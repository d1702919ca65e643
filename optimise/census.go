package optimise

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// census is how many files there are of each size, as far as it matters: none, one, or
// several.
type census struct {
	mu    sync.Mutex
	sizes map[int64]bool // true: several
}

func newCensus() *census { return &census{sizes: make(map[int64]bool)} }

func (c *census) several(size int64) { c.sizes[size] = true }

func (c *census) add(sizes []int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range sizes {
		_, c.sizes[s] = c.sizes[s]
	}
}

// unique tells that no other file has the size. It is asked when all are counted.
func (l *Linker) unique(size int64) bool {
	return l.sizes != nil && !l.sizes.sizes[size]
}

// Count takes notice of the files of an object, before the first one is linked. One that is
// not there any more is passed over. Unless all objects are gone through it does nothing.
func (l *Linker) Count(ctx context.Context, name string) error {
	if l.sizes == nil {
		return nil
	}
	c := counting{Linker: l, ctx: ctx}
	err := c.entry(&directory{read: l.objects}, entry{name: name})
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	l.sizes.add(c.sizes)
	return err
}

// counting is the way through one object.
type counting struct {
	*Linker
	ctx   context.Context
	sizes []int64
}

func (c *counting) entry(dir *directory, e entry) error {
	kind := e.kind
	if kind != unix.DT_DIR {
		var st unix.Stat_t
		if err := unix.Fstatat(dir.read.fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return dir.read.fail("lstat", e.name, err)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
		case unix.S_IFREG, unix.S_IFLNK:
			if !c.isLinked(&st) {
				c.sizes = append(c.sizes, st.Size)
			}
			return nil
		default:
			return nil
		}
	}
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	sub, err := dir.open(e.name)
	if err != nil {
		return err
	}
	defer sub.close()
	entries, err := sub.entries()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.entry(sub, e); err != nil {
			return err
		}
	}
	return nil
}
