package local

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"sync"

	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// gathered is a small object that was read and is not looked at yet.
type gathered struct {
	info *store.PathInfo
	nar  []byte // at most as long as was promised
	err  error  // how reading it ended; nil if it may have more
	lock *flock.Lock
	name string // what it is unpacked as
	bad  error  // why it is not
}

// addSmall unpacks and verifies what was gathered, unless it is valid already.
func (b *addBatch) addSmall(ctx context.Context, list []*gathered) error {
	if len(list) == 0 {
		return nil
	}
	list, refused := b.believed(list)
	// What they refer to has to stay, too, until it is referred to.
	var stay []storepath.Path
	for _, o := range list {
		stay = append(append(stay, o.info.Path), o.info.References...)
	}
	if err := b.roots.Add(ctx, storepath.SortUnique(stay)); err != nil {
		return err
	}
	list, err := b.allNeeded(ctx, list)
	for err == nil && len(list) > 0 {
		var locked []*gathered
		locked, err = b.lockSome(ctx, list)
		list = list[len(locked):]
		if err == nil {
			err = b.unpackLocked(ctx, locked)
		}
	}
	return errors.Join(err, refused)
}

// believed are the objects before the first that nobody vouches for.
func (b *addBatch) believed(list []*gathered) ([]*gathered, error) {
	s := b.s
	if b.opts.NoCheckSigs || !s.opts.RequireSigs {
		return list, nil
	}
	for i, o := range list {
		if !s.trusted(o.info) {
			return list[:i], &store.SignatureError{Path: s.dir.Print(o.info.Path)}
		}
	}
	return list, nil
}

// allNeeded is needed of many: it gives those that are.
func (b *addBatch) allNeeded(ctx context.Context, list []*gathered) ([]*gathered, error) {
	var valid storepath.Set
	if !b.opts.Repair && len(list) > 0 {
		paths := make([]storepath.Path, len(list))
		for i, o := range list {
			paths[i] = o.info.Path
		}
		there, err := b.s.ValidPaths(ctx, paths)
		if err != nil {
			return nil, err
		}
		valid = storepath.NewSet(there...)
	}
	var needed []*gathered
	twins := storepath.Set{}
	for _, o := range list {
		p := o.info.Path
		switch {
		case b.have.Has(p) || twins.Has(p):
		case valid.Has(p):
			b.adopt = append(b.adopt, p)
		default:
			twins.Add(p)
			needed = append(needed, o)
		}
	}
	return needed, nil
}

// lockSome locks the first of a list, and those after it that nobody else has: whoever
// holds locks must not wait for another, see lock.
func (b *addBatch) lockSome(ctx context.Context, list []*gathered) ([]*gathered, error) {
	var err error
	if list[0].lock, err = b.lock(ctx, list[0].info.Path); err != nil {
		return nil, err
	}
	for i, o := range list[1:] {
		if store.Locked(ctx, o.info.Path) {
			continue
		}
		if o.lock, err = b.s.tryLockPath(o.info.Path); err != nil {
			unlockAll(list[:i+1])
			return nil, err
		}
		if o.lock == nil {
			return list[:i+1], nil
		}
	}
	return list, nil
}

// unpackLocked unpacks objects, unless somebody else made them before we had their
// locks. What comes before the first that is bad is kept, and those after it are not:
// they may refer to it.
func (b *addBatch) unpackLocked(ctx context.Context, locked []*gathered) error {
	list, err := b.allNeeded(ctx, locked)
	if err == nil {
		err = b.s.makeRoom(ctx)
	}
	for _, o := range list {
		if err == nil {
			o.name, err = b.place(ctx)
		}
	}
	if err != nil {
		unlockAll(locked)
		return err
	}
	b.s.unpackEach(ctx, b.tmp, list)
	for _, o := range list {
		if o.bad != nil {
			err = o.bad
			break
		}
		b.took(addItem{info: o.info, path: b.tmp.scratch.At(o.name), lock: o.lock})
		o.lock = nil
	}
	unlockAll(locked) // those that were not taken
	return err
}

// unpackEach unpacks objects, as many at a time as there are processors.
func (s *Store) unpackEach(ctx context.Context, tmp *tempDir, list []*gathered) {
	work := make(chan *gathered, len(list))
	for _, o := range list {
		work <- o
	}
	close(work)
	unpack := func() {
		for o := range work {
			o.bad = s.unpack(ctx, o.info, o.open(), tmp, o.name)
		}
	}
	var others sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(list)) - 1 {
		others.Go(unpack)
	}
	unpack()
	others.Wait()
}

// open gives what was read, and then how that ended.
func (o *gathered) open() io.Reader {
	if o.err == nil {
		return bytes.NewReader(o.nar)
	}
	return io.MultiReader(bytes.NewReader(o.nar), failing{o.err})
}

// failing is a reader that has nothing but an error.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func unlockAll(list []*gathered) {
	for _, o := range list {
		unlock(o.lock)
		o.lock = nil
	}
}
