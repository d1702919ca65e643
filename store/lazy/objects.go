package lazy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Objects are what a mount of a lazy store shows. One process at a time serves a mount.
type Objects struct {
	s       *Store
	fetch   *fetcher
	numbers *numbers

	mu     sync.Mutex
	loaded map[uint64]*object
	bytes  int      // of the trees of loaded
	stale  []string // names that the kernel knows by a number that means nothing any more

	spoilt []uint64 // nodes of which the kernel must forget the contents

	gate     gate
	recorder *recorder           // nil: nothing is learnt
	starts   chan storepath.Path // objects that are read for the first time

	changed chan struct{} // something new is known
	met     chan *object  // objects that somebody has looked up for the first time
	opened  chan opened   // programs and libraries of which the beginning was read
	hinted  hinted
	life    context.Context //nolint:containedctx // ends when what comes ahead has no purpose any more; may be nil
	end     context.CancelFunc
	asking  singleflight.Group // for indexes

	since             time.Time
	complete, partial counted // for reports
}

var _ fusefs.Source = (*Objects)(nil)

// maxTrees is how many bytes of trees are kept in memory. Others are read again when
// the kernel asks about them.
const maxTrees = 24 << 20

// Objects opens what a mount shows. state is a directory that belongs to the mount, and lasts as long
// as it does: there is kept what the kernel was told, for whoever serves the mount next. The caller
// closes it.
func (s *Store) Objects(state string) (*Objects, error) {
	n, err := openNumbers(filepath.Join(state, "numbers"))
	if err != nil {
		return nil, fmt.Errorf("serving a lazy store: %w", err)
	}
	o := &Objects{s: s, fetch: newFetcher(s), numbers: n, loaded: map[uint64]*object{}, changed: make(chan struct{}, 1), met: make(chan *object, 64), opened: make(chan opened, 64), since: time.Now()}
	o.fetch.spoilt = o.forget
	o.life, o.end = context.WithCancel(context.Background())
	if !s.o.NoProfiles {
		o.recorder, o.starts = newRecorder(), make(chan storepath.Path, 64)
	}
	return o, nil
}

// Close waits until what has come is on disk, and lets another process serve the mount. Nothing
// may be under way.
func (o *Objects) Close() error {
	o.end()
	o.fetch.idle.Wait()
	o.s.o.Cache.note()
	return o.numbers.close()
}

// Tell tells the kernel of objects that were not known before, until ctx ends.
func (o *Objects) Tell(ctx context.Context, c *fusefs.Conn) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.changed:
		}
		o.mu.Lock()
		stale, spoilt := o.stale, o.spoilt
		o.stale, o.spoilt = nil, nil
		o.mu.Unlock()
		for _, name := range stale {
			if c.NameChanged(name) != nil {
				return // the mount is gone
			}
		}
		for _, id := range spoilt {
			if c.ContentsChanged(id) != nil {
				return
			}
		}
		if c.RootChanged() != nil {
			return
		}
		select { // a thousand that come together are told once
		case <-ctx.Done():
			return
		case <-time.After(tellPause):
		}
	}
}

// tellPause is how long a listing may lack what has just come to be known.
const tellPause = 100 * time.Millisecond

// Known lists what is known, as far as somebody has looked at it.
func (o *Objects) Known(after uint64) iter.Seq[fusefs.Known] {
	return func(yield func(fusefs.Known) bool) {
		for {
			batch := o.numbers.after(after, 256)
			for _, k := range batch {
				if !yield(k) {
					return
				}
				after = k.Number
			}
			if len(batch) == 0 {
				return
			}
		}
	}
}

// Lookup finds an object by the name that it has in the store directory.
func (o *Objects) Lookup(ctx context.Context, name string) (fusefs.Object, error) {
	p, err := storepath.ParseBase(name)
	if err != nil {
		return nil, fs.ErrNotExist // no store path is called like that
	}
	if o.numbers.lastOf(p) == 0 {
		defer o.s.askEarly(ctx, p)()
	}
	infos, err := o.s.PathInfos(ctx, []storepath.Path{p})
	if err != nil {
		return nil, o.tell(ctx, p, err)
	}
	if infos[0] == nil {
		return nil, fs.ErrNotExist
	}
	ob, err := o.describe(ctx, infos[0])
	if err != nil {
		return nil, o.tell(ctx, p, err)
	}
	if !ob.met.Swap(true) {
		select {
		case o.met <- ob:
		default: // it would only be sooner
		}
	}
	return ob, nil
}

// tell logs why something cannot be told.
func (o *Objects) tell(ctx context.Context, p storepath.Path, err error) error {
	if ctx.Err() == nil && !errors.Is(err, ErrUnavailable) { // that has been told
		o.s.complain("look up "+p.Base(), fmt.Errorf("looking up '%s': %w", p, err))
	}
	return o.s.answered(ctx, err)
}

// describe finds the tree of a valid object, and gives it its number.
func (o *Objects) describe(ctx context.Context, info *store.PathInfo) (*object, error) {
	if number := o.numbers.lastOf(info.Path); number != 0 {
		o.mu.Lock()
		ob := o.loaded[number]
		o.mu.Unlock()
		if ob != nil && !ob.dead.Load() && ob.info.NarHash == info.NarHash {
			return ob, nil
		}
	}
	tree, verified, part, err := o.treeOf(ctx, info)
	if err != nil {
		return nil, err
	}
	return o.keep(info, tree, verified, part)
}

// keep gives an object its number, and keeps it in memory.
func (o *Objects) keep(info *store.PathInfo, tree *fusefs.Tree, verified bool, part *partial) (*object, error) {
	number, fresh, err := o.numbers.of(info.Path, objectIDOf(info, tree))
	if err != nil {
		return nil, err
	}
	if fresh {
		select {
		case o.changed <- struct{}{}:
		default:
		}
	}
	return o.load(number, info, tree, verified, part), nil
}

// load keeps an object in memory.
func (o *Objects) load(number uint64, info *store.PathInfo, tree *fusefs.Tree, verified bool, part *partial) *object {
	o.mu.Lock()
	defer o.mu.Unlock()
	if ob := o.loaded[number]; ob != nil && ob.info.NarHash == info.NarHash {
		if verified {
			ob.verified.Store(true)
		}
		o.givePart(ob, part)
		return ob
	}
	ob := &object{o: o, number: number, info: info, tree: tree, checked: rechecked{turn: make(chan struct{}, 1)}}
	ob.verified.Store(verified)
	ob.part.Store(part)
	o.loaded[number] = ob
	o.bytes += ob.weight()
	for n, other := range o.loaded { // any will do: the kernel asks seldom about what it knows
		if o.bytes <= maxTrees || len(o.loaded) == 1 {
			break
		}
		if n != number {
			delete(o.loaded, n)
			o.bytes -= other.weight()
		}
	}
	return ob
}

// givePart lets an object have its files one by one. The caller holds the lock.
func (o *Objects) givePart(ob *object, part *partial) {
	if part == nil || ob.part.Load() != nil {
		return
	}
	before := ob.weight()
	ob.part.Store(part)
	if o.loaded[ob.number] == ob {
		o.bytes += ob.weight() - before
	}
}

// Object finds an object by its number.
func (o *Objects) Object(ctx context.Context, number uint64) (fusefs.Object, error) {
	o.mu.Lock()
	ob := o.loaded[number]
	o.mu.Unlock()
	if ob == nil {
		var err error
		if ob, err = o.again(ctx, number); err != nil {
			return nil, err
		}
	}
	if ob.dead.Load() {
		return nil, fusefs.ErrStale
	}
	return ob, nil
}

// again finds an object that was described before, perhaps by another process.
func (o *Objects) again(ctx context.Context, number uint64) (*object, error) {
	was, ok := o.numbers.get(number)
	if !ok {
		return nil, fusefs.ErrStale
	}
	infos, err := o.s.PathInfos(ctx, []storepath.Path{was.path})
	if err != nil {
		return nil, o.tell(ctx, was.path, err)
	}
	if infos[0] == nil {
		return nil, fusefs.ErrStale
	}
	tree, verified, part, err := o.treeOf(ctx, infos[0])
	if err != nil {
		return nil, o.tell(ctx, was.path, err)
	}
	if objectIDOf(infos[0], tree) != was.id {
		return nil, fusefs.ErrStale
	}
	return o.load(number, infos[0], tree, verified, part), nil
}

// treeOf finds the tree of an object: of what is here, from an index or a listing, or else by fetching the
// whole. verified tells whether it is certain that it is the right one; part, if not nil, gives its files.
func (o *Objects) treeOf(ctx context.Context, info *store.PathInfo) (t *fusefs.Tree, verified bool, part *partial, err error) {
	c, p := o.s.o.Cache, info.Path
	for range 3 { // it may come, and be evicted again, meanwhile
		if err := c.holds(info); err != nil {
			return nil, false, nil, err
		}
		if t, err := c.treeHere(p); err == nil {
			return t, true, nil, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, false, nil, err
		}
		if t, verified, part := o.treeHere(ctx, info); t != nil {
			return t, verified, part, nil
		}
		if err := o.fetch.fetch(ctx, info); isFull(err) {
			ps, err := o.s.passThrough(ctx, info, nil, wholeTree)
			if err != nil {
				return nil, false, nil, err
			}
			return ps.tree, true, nil, nil
		} else if err != nil {
			return nil, false, nil, err
		}
	}
	return nil, false, nil, fmt.Errorf("'%s': %w: it is evicted as soon as it comes", p, ErrUnavailable)
}

// treeHere finds the tree of an object without its contents: from an index or a listing; nil if it has neither.
func (o *Objects) treeHere(ctx context.Context, info *store.PathInfo) (t *fusefs.Tree, verified bool, part *partial) {
	if part := o.partialOf(ctx, info); part != nil {
		return part.x.Contents.Tree(), true, part
	}
	return o.s.listingOf(ctx, info), false, nil
}

// drop forgets an object that turned out to be another one, and makes the kernel look it up
// anew.
func (o *Objects) drop(ob *object) {
	o.mu.Lock()
	if o.loaded[ob.number] == ob {
		delete(o.loaded, ob.number)
		o.bytes -= ob.weight()
	}
	o.stale = append(o.stale, ob.info.Path.Base())
	o.mu.Unlock()
	select {
	case o.changed <- struct{}{}:
	default:
	}
}
