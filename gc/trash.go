package gc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/storepath"
)

// trashName is the name part of the directory, in the store directory, into which a
// collection moves what it deletes. With a hash part before it that is nobody's, it is to any Nix a
// path that is not valid, so that what a crash leaves is garbage to whoever collects
// next. (Other names would be, too, but for Nix's local-overlay, which cannot delete
// what is not named as a store path is.)
const trashName = "strata-trash"

// Move is an entry of the store directory that is moved aside.
type Move struct {
	// Name is that of the entry, To its new one; both are relative to the store
	// directory.
	Name, To string
	// Err is nil when nobody sees the entry any more, and fs.ErrNotExist when there is
	// none.
	Err error
	// Freed counts the bytes that have left the disk already, because the entry had to
	// be deleted in another way.
	Freed uint64
}

// trash is where objects go before they are deleted: one rename takes each out of
// everybody's sight, so that nobody waits for the rest.
type trash struct {
	parts *Parts
	store *os.File // the store directory
	name  string
	bags  int  // how many there were
	full  bool // the disk is, so that there are no bags, and objects are deleted where they are

	jobs    chan job
	waiting sync.WaitGroup // for jobs
	workers sync.WaitGroup
	links   linkLock
	freed   atomic.Uint64

	mu     sync.Mutex
	failed failures
}

// bag is a directory in the trash, for one batch: renames into a directory from which
// others delete at the same time would wait for each other.
type bag struct {
	dir  *os.File
	name string       // relative to the store directory
	left atomic.Int64 // how many objects are in it
}

// job is an object to be deleted.
type job struct {
	Move
	bag *bag
}

// linkLock notes whether it was ever needed: whether anything deleted had more than
// one name.
type linkLock struct {
	sync.Mutex
	used bool
}

func (l *linkLock) Lock() {
	l.Mutex.Lock()
	l.used = true
}

// backlog is how many objects may lie in the trash before those that come next have
// to wait. A crash leaves no more of them.
const backlog = 2 * batch

// newTrash makes the directory, and starts to delete what is put there until ctx
// ends. Then the rest stays where it is, for the next collection.
func newTrash(ctx context.Context, p *Parts) (*trash, error) {
	var hash [20]byte
	_, _ = rand.Read(hash[:]) // never fails
	name, err := storepath.FromParts(hash[:], trashName)
	if err != nil {
		return nil, err
	}
	t := &trash{parts: p, name: name.Base(), jobs: make(chan job, backlog)}
	if t.store, err = os.OpenFile(p.RealDir, unix.O_DIRECTORY|unix.O_PATH, 0); err != nil {
		return nil, err
	}
	if err := t.mkdir(t.name); err != nil {
		_ = t.store.Close()
		return nil, err
	}
	crashpoint.Reached("gc: trash made")
	for range min(max(runtime.GOMAXPROCS(0), 2), 8) {
		t.workers.Go(func() { t.work(ctx) })
	}
	return t, nil
}

// mkdir makes a directory in the store directory. That the disk is full it takes note
// of: then there is nothing to be done but to make room.
func (t *trash) mkdir(name string) error {
	err := unix.Mkdirat(int(t.store.Fd()), name, 0o700)
	if isFull(err) {
		t.full = true
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "mkdir", Path: filepath.Join(t.parts.RealDir, name), Err: err}
	}
	return nil
}

func (t *trash) rmdir(name string) error {
	err := unix.Unlinkat(int(t.store.Fd()), name, unix.AT_REMOVEDIR)
	switch err { //nolint:errorlint // straight from a system call
	case nil, unix.ENOENT:
		return nil
	case unix.ENOTEMPTY, unix.EEXIST:
		return nil // somebody was told of each that could not be deleted
	}
	return &os.PathError{Op: "rmdir", Path: filepath.Join(t.parts.RealDir, name), Err: err}
}

// newBag is nil when the disk is full.
func (t *trash) newBag() (*bag, error) {
	t.bags++
	b := &bag{name: t.name + "/" + strconv.Itoa(t.bags)}
	if !t.full {
		if err := t.mkdir(b.name); err != nil {
			return nil, err
		}
	}
	if t.full {
		return nil, nil //nolint:nilnil // as it says
	}
	fd, err := openDir(int(t.store.Fd()), b.name, unix.O_NOFOLLOW)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(t.parts.RealDir, b.name), Err: err}
	}
	b.dir = os.NewFile(uintptr(fd), filepath.Join(t.parts.RealDir, b.name)) //nolint:gosec // a descriptor
	return b, nil
}

// take moves entries of the store directory aside. When it returns, nobody sees them any
// more, but for those that have an error. drop has the others deleted.
func (t *trash) take(ctx context.Context, names []string) (drop func(), moves []Move, err error) {
	b, err := t.newBag()
	if err != nil {
		return nil, nil, err
	}
	moves = make([]Move, len(names))
	for i, n := range names {
		moves[i].Name = n
		if b != nil {
			moves[i].To = b.name + "/" + strconv.Itoa(i)
		}
	}
	switch {
	case b == nil:
		for i := range moves {
			moves[i].Freed, moves[i].Err = t.parts.Remove(ctx, names[i:i+1])
		}
	case t.parts.Aside != nil:
		t.parts.Aside(ctx, moves)
	default:
		for i := range moves {
			moves[i].Err = renameAside(int(t.store.Fd()), &moves[i])
		}
	}
	return func() { t.drop(b, moves) }, moves, nil
}

// drop has what was moved into a bag deleted, and the bag then.
func (t *trash) drop(b *bag, moves []Move) {
	if b != nil {
		b.left.Store(int64(len(moves)) + 1)
	}
	for _, m := range moves {
		t.freed.Add(m.Freed)
		switch {
		case b == nil:
		case m.Err != nil:
			b.left.Add(-1)
		default:
			t.waiting.Add(1)
			t.jobs <- job{m, b}
		}
	}
	if b != nil {
		t.leave(b)
	}
}

// leave is for each that has nothing to do any more in a bag.
func (t *trash) leave(b *bag) {
	if b.left.Add(-1) > 0 {
		return
	}
	_ = b.dir.Close() // nothing was written through it
	if err := t.rmdir(b.name); err != nil {
		t.fail(err)
	}
}

// Rename is how an entry of the directory store is moved when nothing speaks against a
// rename.
func Rename(store string, m *Move) error {
	fd, err := openDir(unix.AT_FDCWD, store, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: store, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	return renameAside(fd, m)
}

// renameAside moves one entry. Whoever may not write to a directory may not move it
// to another one, not even its owner, so it is made writable if need be.
func renameAside(store int, m *Move) error {
	err := unix.Renameat(store, m.Name, store, m.To)
	if err == unix.EACCES {
		var fd int
		if fd, err = openDir(store, m.Name, unix.O_NOFOLLOW); err == nil {
			err = unix.Fchmod(fd, 0o700)
			_ = unix.Close(fd)
		}
		if err == nil {
			err = unix.Renameat(store, m.Name, store, m.To)
		}
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: m.Name, New: m.To, Err: err}
	}
	return nil
}

func (t *trash) work(ctx context.Context) {
	for j := range t.jobs {
		freed, err := nar.RemoveTreeAmong(ctx, j.bag.dir, filepath.Base(j.To), &t.links)
		t.freed.Add(uint64(freed)) //nolint:gosec // a count of bytes
		if err != nil && ctx.Err() == nil {
			t.fail(fmt.Errorf("deleting '%s': %w", j.Name, err))
		}
		crashpoint.Reached("gc: object deleted")
		t.leave(j.bag)
		t.waiting.Done()
	}
}

func (t *trash) fail(err error) {
	t.mu.Lock()
	t.failed.add(err)
	t.mu.Unlock()
}

// settle waits until all that was taken is deleted, and tells how many bytes have
// left the disk up to now.
func (t *trash) settle() uint64 {
	t.waiting.Wait()
	return t.freed.Load()
}

// close ends the trash. What could not be deleted stays in it.
func (t *trash) close() error {
	close(t.jobs)
	t.workers.Wait()
	return errors.Join(t.rmdir(t.name), t.store.Close())
}

// failures are errors that stop nothing: as many of them as anybody reads, and how
// many there were.
type failures struct {
	first []error
	count int
}

const maxFailures = 20

func (f *failures) add(err error) {
	if f.count++; f.count <= maxFailures {
		f.first = append(f.first, err)
	}
}

// err tells all of them, nil if there were none.
func (f *failures) err() error {
	if f.count == 0 {
		return nil
	}
	errs := f.first
	if more := f.count - len(errs); more > 0 {
		errs = append(errs, fmt.Errorf("and %d more that could not be deleted", more))
	}
	return errors.Join(errs...)
}
