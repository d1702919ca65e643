package lazy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/store"
)

// object is one that a mount shows.
type object struct {
	o      *Objects
	number uint64
	info   *store.PathInfo
	tree   *fusefs.Tree
	// verified tells that the tree is that of the true object.
	verified atomic.Bool
	// checked is for VerifyAlways.
	checked rechecked
	// dead tells that it is not, and that nobody may go on with it.
	dead atomic.Bool
	// met tells that somebody has looked it up.
	met atomic.Bool
	// part, if not nil, gives the files one by one.
	part atomic.Pointer[partial]
}

// weight is about what it takes in memory.
func (ob *object) weight() int {
	if pt := ob.part.Load(); pt != nil {
		return pt.x.Contents.Bytes()
	}
	return len(ob.tree.Encoded())
}

var _ fusefs.Object = (*object)(nil)

// Number is that of the table.
func (ob *object) Number() uint64 { return ob.number }

// Tree is as it was when the number was given out.
func (ob *object) Tree() *fusefs.Tree { return ob.tree }

// Readlink gives a target, of a tree that is certain.
func (ob *object) Readlink(ctx context.Context, node uint32) (string, error) {
	if ob.o.s.o.Verify == VerifyStream && !ob.dead.Load() {
		return ob.tree.Node(node).Target, nil // as who told the tree said
	}
	err := ob.verify(ctx)
	if isFull(err) {
		var ps *passing
		if ps, err = ob.o.s.passThrough(ctx, ob.info, ob.tree, wholeTree); err == nil {
			err = ob.compare(ps.tree)
		}
	}
	if err != nil {
		return "", ob.o.s.answered(ctx, err)
	}
	return ob.tree.Node(node).Target, nil
}

// ReadAt reads from a file, which is fetched with its object if it is not here.
func (ob *object) ReadAt(ctx context.Context, node uint32, p []byte, off int64) (int, error) {
	n, err := ob.readAt(ctx, node, p, off)
	if off == 0 && err == nil {
		ob.o.opens(ob, node, p[:n])
	}
	return n, ob.o.s.answered(ctx, err)
}

func (ob *object) readAt(ctx context.Context, node uint32, p []byte, off int64) (int, error) {
	size := ob.tree.Node(node).Size
	if off >= size {
		return 0, nil
	}
	p = p[:min(int64(len(p)), size-off)]
	if r := ob.o.recorder; r != nil && r.note(ob, node) {
		select {
		case ob.o.starts <- ob.info.Path:
		default: // so many at once are no start-up
		}
	}
	var waits func()
	var since time.Time
	wait := func() {
		if waits == nil {
			waits, since = ob.o.gate.wait(), time.Now()
		}
	}
	defer func() {
		if waits != nil {
			waits()
			ob.o.waited(ob, node, off, time.Since(since))
		}
	}()
	whole := false // it cannot be had in parts
	for range 3 {  // it may be evicted as soon as it has come
		if n, ok, err := ob.readStream(ctx, whole, node, p, off); ok {
			return n, err
		}
		if !ob.verified.Load() {
			wait()
		}
		err := ob.verify(ctx)
		if err == nil {
			var n int
			n, err = ob.readHere(ctx, node, p, off)
			if errors.Is(err, errAbsent) {
				wait()
				n, err = ob.readPart(ctx, node, p, off)
			}
			if err == nil || !errors.Is(err, errWhole) {
				return n, err
			}
			if ob.o.s.o.Verify == VerifyStream && !whole {
				whole = true
				continue
			}
			err = ob.o.fetch.fetch(ctx, ob.info)
		}
		if isFull(err) {
			return ob.readThrough(ctx, node, p, off)
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("'%s': %w: it is evicted as soon as it comes", ob.info.Path, ErrUnavailable)
}

// readPart reads from an object that comes file by file; errWhole if it has to be fetched as a whole.
func (ob *object) readPart(ctx context.Context, node uint32, p []byte, off int64) (int, error) {
	if pt := ob.parts(ctx); pt != nil {
		return pt.readAt(ctx, node, p, off)
	}
	return 0, errWhole
}

// parts gives the files of an object that is not here; nil if it has to be fetched as a whole. One that was
// here when it was looked up, and has been evicted since, gets its index now.
func (ob *object) parts(ctx context.Context) *partial {
	if pt := ob.part.Load(); pt != nil || !ob.verified.Load() {
		return pt
	}
	pt := ob.o.partialOf(ctx, ob.info)
	if pt == nil || !bytes.Equal(pt.x.Contents.Tree().Encoded(), ob.tree.Encoded()) {
		return nil
	}
	ob.o.mu.Lock()
	defer ob.o.mu.Unlock()
	ob.o.givePart(ob, pt)
	return ob.part.Load()
}

// readHere reads from the object as it is in the cache; errAbsent if it is not.
func (ob *object) readHere(ctx context.Context, node uint32, p []byte, off int64) (int, error) {
	c := ob.o.s.o.Cache
	name := ob.tree.Path(node)
	fd, err := c.open(ob.info.Path, name)
	if err != nil {
		return 0, ob.damaged(name, err)
	}
	defer unix.Close(fd)
	c.touch(ob.info.Path)
	if err := ob.recheck(ctx, fd); err != nil {
		return 0, ob.damaged(name, err)
	}
	done := 0
	for done < len(p) {
		n, err := unix.Pread(fd, p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, ob.damaged(name, err)
		case n == 0:
			return done, ob.damaged(name, errors.New("is shorter than it was"))
		default:
			done += n
		}
	}
	return done, nil
}

// damaged tells of a file of the cache that is not what it was.
func (ob *object) damaged(name string, err error) error {
	if errors.Is(err, errAbsent) || errors.Is(err, context.Canceled) {
		return err
	}
	err = &store.DamageError{Layer: "cache of lazy objects '" + ob.o.s.o.Cache.Dir() + "'", Path: ob.info.Path.Base() + "/" + name, Why: "a file cannot be read", Err: err}
	ob.o.s.count.damage.Add(1)
	ob.o.s.complain("damage "+ob.info.Path.Base(), err)
	return err
}

// verify makes sure that the tree is the right one, which a listing may not have told.
func (ob *object) verify(ctx context.Context) error {
	if ob.dead.Load() {
		return fusefs.ErrStale
	}
	if ob.verified.Load() {
		return nil
	}
	for range 3 {
		t, err := ob.o.s.o.Cache.treeHere(ob.info.Path)
		if err == nil {
			return ob.compare(t)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if ps := ob.o.s.through.find(ob.info, func(*passing) bool { return true }); ps != nil {
			return ob.compare(ps.tree)
		}
		if err := ob.o.fetch.fetch(ctx, ob.info); err != nil {
			return err
		}
	}
	return fmt.Errorf("'%s': %w: it is evicted as soon as it comes", ob.info.Path, ErrUnavailable)
}

// compare holds the tree against the true one.
func (ob *object) compare(t *fusefs.Tree) error {
	if bytes.Equal(t.Encoded(), ob.tree.Encoded()) {
		ob.verified.Store(true)
		return nil
	}
	if !ob.dead.Swap(true) {
		ob.o.s.count.lied.Add(1)
		ob.o.s.o.Log.Error(fmt.Sprintf("the listing of '%s' was not that of the object; whoever has it open has to open it again", ob.info.Path))
	}
	ob.o.drop(ob)
	return fusefs.ErrStale
}
