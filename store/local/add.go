package local

import (
	"context"
	"io"
	"strconv"
	"time"

	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// readSize is the buffer between a client's NAR and what unpacks it.
const readSize = 128 << 10

// Add adds one object, see [store.Adder].
func (s *Store) Add(ctx context.Context, info *store.PathInfo, narStream io.Reader, o store.AddOptions) error {
	b, err := s.newBatch(ctx, o)
	if err != nil {
		return err
	}
	defer b.close(ctx)
	if err := b.add(ctx, info, narStream); err != nil {
		return err
	}
	return b.flush(ctx)
}

// Limits of what waits to be registered together. Locks are held meanwhile, so
// it must not take long, and not while a client takes its time with a large object.
const (
	batchPaths = 256
	batchBytes = 64 << 20
	batchAge   = time.Second
	batchAlone = 4 << 20 // bytes of an object before which the others are registered
)

// addBatch holds objects that are unpacked and verified, and not yet in place.
type addBatch struct {
	s     *Store
	opts  store.AddOptions
	roots store.TempRoots
	tmp   *tempDir
	items []addItem
	have  storepath.Set    // paths of items
	adopt []storepath.Path // valid already; only below, perhaps
	bytes uint64
	since time.Time // when the first of items came
	count int       // names under tmp
}

type addItem struct {
	info *store.PathInfo
	path string      // under tmp
	lock *flock.Lock // nil: the caller has it
}

func (s *Store) newBatch(ctx context.Context, o store.AddOptions) (*addBatch, error) {
	if err := s.writable(); err != nil {
		return nil, err
	}
	b := &addBatch{s: s, opts: o, roots: o.Roots, have: storepath.Set{}}
	if b.roots == nil {
		b.roots = s.NewTempRoots()
	}
	return b, nil
}

// close gives back what was not flushed.
func (b *addBatch) close(ctx context.Context) {
	for _, it := range b.items {
		unlock(it.lock)
	}
	b.items = nil
	if b.tmp != nil {
		b.tmp.remove(ctx)
	}
	if b.opts.Roots == nil {
		_ = b.roots.Close() // what is valid by now is on its own
	}
}

// add unpacks and verifies one object, unless it is valid already.
func (b *addBatch) add(ctx context.Context, info *store.PathInfo, narStream io.Reader) error {
	s := b.s
	if !b.opts.NoCheckSigs && s.opts.RequireSigs && !s.trusted(info) {
		return &store.SignatureError{Path: s.dir.Print(info.Path)}
	}
	// What it refers to has to stay, too, until it is referred to.
	if err := b.roots.Add(ctx, append([]storepath.Path{info.Path}, info.References...)); err != nil {
		return err
	}
	if need, err := b.needed(ctx, info.Path); err != nil || !need {
		return err
	}
	lock, err := b.lock(ctx, info.Path)
	if err != nil {
		return err
	}
	// Somebody else may have made it while we waited.
	need, err := b.needed(ctx, info.Path)
	if err == nil && need {
		err = s.makeRoom(ctx)
	}
	if err == nil && need {
		var path string
		if path, err = b.unpack(ctx, info, narStream); err == nil {
			b.took(addItem{info: info, path: path, lock: lock})
			return nil
		}
	}
	unlock(lock)
	return err
}

// took keeps an object until it is registered.
func (b *addBatch) took(it addItem) {
	if len(b.items) == 0 {
		b.since = time.Now()
	}
	b.items = append(b.items, it)
	b.have.Add(it.info.Path)
	b.bytes += it.info.NarSize
}

func (b *addBatch) needed(ctx context.Context, p storepath.Path) (bool, error) {
	if b.have.Has(p) {
		return false, nil
	}
	if b.opts.Repair {
		return true, nil
	}
	valid, err := b.s.isValid(ctx, p)
	if valid {
		b.adopt = append(b.adopt, p)
	}
	return !valid, err
}

// lock takes the lock of one more path. Whoever holds locks must not wait for
// another: so when it is not to be had, what we hold is finished first.
func (b *addBatch) lock(ctx context.Context, p storepath.Path) (*flock.Lock, error) {
	if store.Locked(ctx, p) {
		return nil, nil
	}
	if len(b.items) > 0 {
		if l, err := b.s.tryLockPath(p); l != nil || err != nil {
			return l, err
		}
		if err := b.flush(ctx); err != nil {
			return nil, err
		}
	}
	return b.s.lockPath(ctx, p)
}

// place is a fresh name in the temporary directory.
func (b *addBatch) place(ctx context.Context) (string, error) {
	if b.tmp == nil {
		tmp, err := b.s.newTempDir(ctx)
		if err != nil {
			return "", err
		}
		b.tmp = tmp
	}
	b.count++
	return strconv.Itoa(b.count), nil
}

// unpack puts the object under tmp, and fails if it is not the promised one.
func (b *addBatch) unpack(ctx context.Context, info *store.PathInfo, narStream io.Reader) (string, error) {
	name, err := b.place(ctx)
	if err != nil {
		return "", err
	}
	return b.tmp.scratch.At(name), b.s.unpack(ctx, info, narStream, b.tmp, name)
}

// flush puts everything in place and registers it in one transaction.
func (b *addBatch) flush(ctx context.Context) error {
	if err := b.s.Adopt(ctx, b.adopt); err != nil {
		return err
	}
	b.adopt = nil
	if len(b.items) == 0 {
		return nil
	}
	defer func() {
		for _, it := range b.items {
			unlock(it.lock)
		}
		b.items, b.bytes, b.have = nil, 0, storepath.Set{}
	}()
	infos := make([]*store.PathInfo, 0, len(b.items))
	var err error
	for _, it := range b.items {
		if err = b.s.install(ctx, it.path, it.info.Path); err != nil {
			break
		}
		infos = append(infos, it.info)
	}
	if err == nil {
		err = b.s.Register(ctx, infos)
	}
	if err != nil {
		b.s.withdraw(ctx, infos)
	}
	return err
}

// trusted tells whether an object may come in without anybody vouching for it.
func (s *Store) trusted(info *store.PathInfo) bool {
	if info.IsContentAddressed(s.dir) {
		return true
	}
	return s.opts.TrustedKeys.CountValid(info, s.dir) > 0
}
