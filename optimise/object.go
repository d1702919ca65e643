package optimise

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// Object links the files of the object with that name in the store directory.
// The object must not be deleted meanwhile. After an error, which names the path,
// some of its files are linked and all of them are whole.
func (l *Linker) Object(ctx context.Context, name string) (Stats, error) {
	w := walk{Linker: l, ctx: ctx}
	l.busy.Add(1)
	defer l.busy.Add(-1)
	err := w.entry(&directory{read: l.objects}, entry{name: name})
	w.wg.Wait()
	return w.stats, errors.Join(err, w.err)
}

// walk is the way through one object. Directories may be walked by several goroutines.
type walk struct {
	*Linker
	ctx   context.Context
	wg    sync.WaitGroup
	mu    sync.Mutex
	stats Stats
	err   error // of goroutines
}

func (w *walk) count(s Stats) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Add(s)
}

// entry looks at an entry of a directory.
func (w *walk) entry(dir *directory, e entry) error {
	if err := context.Cause(w.ctx); err != nil {
		return err
	}
	if e.kind == unix.DT_DIR {
		return w.directory(dir, e.name)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir.read.fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return dir.read.fail("lstat", e.name, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return w.directory(dir, e.name)
	case unix.S_IFREG, unix.S_IFLNK:
		if w.isLinked(&st) || w.unique(st.Size) {
			return nil
		}
		return w.file(dir, e.name, &st)
	}
	return nil // nothing that belongs into a store; not ours to judge
}

func (w *walk) directory(parent *directory, name string) error {
	dir, err := parent.open(name)
	if err != nil {
		return err
	}
	var below sync.WaitGroup // of goroutines that use dir
	defer func() {
		below.Wait()
		dir.close()
	}()
	entries, err := dir.entries()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.kind == unix.DT_DIR && w.opts.Layer == "" && w.help(&below, func() error { return w.directory(dir, e.name) }) {
			continue
		}
		if err = w.entry(dir, e); err != nil {
			break
		}
	}
	if w.opts.DryRun {
		return err
	}
	if sealErr := dir.seal(w.Linker); err == nil {
		err = sealErr
	}
	return err
}

// help runs f in a goroutine of its own, if there is a processor to spare.
func (w *walk) help(below *sync.WaitGroup, f func() error) bool {
	if w.busy.Add(1) > w.most {
		w.busy.Add(-1)
		return false
	}
	w.wg.Add(1)
	below.Go(func() {
		defer w.wg.Done()
		defer w.busy.Add(-1)
		if err := f(); err != nil {
			w.mu.Lock()
			w.err = errors.Join(w.err, err)
			w.mu.Unlock()
		}
	})
	return true
}
