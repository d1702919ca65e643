package lazy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/storepath"
)

// EvictOptions say what is to go. The zero value is what the cache's bounds want gone.
type EvictOptions struct {
	// Paths, if there are any, and All are to go whatever the bounds say.
	Paths []storepath.Path
	All   bool
	// Room is how many more bytes are wanted than the bounds leave.
	Room int64
	// DryRun only tells what would go.
	DryRun bool
}

// Evicted is what an eviction did.
type Evicted struct {
	Paths []storepath.Path
	Bytes int64 // about what they took on disk
	// Objects and Left are how many objects stayed, and about what they take.
	Objects int
	Left    int64
	// InUse and Pinned are how many would have gone otherwise.
	InUse, Pinned int
}

// justUsed is for how long after its use nothing goes by itself: whoever looked at it may be about to
// open it.
const justUsed = time.Minute

// evictBatch is how many objects are taken away at once: each of them is locked meanwhile.
const evictBatch = 256

// evictScan is how many objects an eviction has in mind at once.
const evictScan = 32768

// Evict takes objects away, the ones that were not used for longest first, and never one that is
// pinned, that a process uses, or that is just arriving. Of caches that share their bounds it looks at all.
// Several evictions wait for each other. After an error it has done a part.
func (c *Cache) Evict(ctx context.Context, o EvictOptions) (*Evicted, error) {
	lock, err := flock.Open(filepath.Join(c.pool(), evictLock))
	if err != nil {
		return nil, fmt.Errorf("cache of lazy objects: %w", err)
	}
	defer lock.Close()
	if err := lock.Lock(ctx, flock.Exclusive, nil); err != nil {
		return nil, err
	}
	e := &eviction{c: c, o: o, out: &Evicted{}, stays: map[*Cache]storepath.Set{}}
	members, end, err := c.members()
	if err != nil {
		return nil, fmt.Errorf("cache of lazy objects: %w", err)
	}
	defer end()
	e.members = members
	if err := e.run(ctx); err != nil {
		return e.out, fmt.Errorf("cache of lazy objects: %w", err)
	}
	return e.out, nil
}

// eviction is one of them.
type eviction struct {
	c       *Cache
	o       EvictOptions
	members []*Cache
	total   tally
	out     *Evicted
	// freedFiles are the bytes of files that no complete object had.
	freedFiles int64
	// stays are those that turned out to be in use when they were to go.
	stays  map[*Cache]storepath.Set
	pinned map[*Cache]storepath.Set
	busy   storepath.Set
}

func (e *eviction) run(ctx context.Context) (err error) {
	e.c.note()
	if e.total, err = e.c.tally(nil); err != nil {
		return err
	}
	if e.total.due() {
		if e.total, err = e.c.recount(ctx, e.members); err != nil {
			return err
		}
	}
	want := e.c.excess(e.total.Bytes) + e.o.Room
	for {
		var more bool
		if more, err = e.pass(ctx, &want); err != nil || !more {
			break
		}
	}
	if err == nil && !e.o.DryRun {
		err = e.files(ctx, want)
	}
	e.out.Objects, e.out.Left = int(e.total.Objects), e.total.Bytes
	return err
}

// pass looks at everything once and takes away as much as it can have in mind, and tells
// whether there may be more.
func (e *eviction) pass(ctx context.Context, want *int64) (more bool, err error) {
	if !e.asked() && *want <= 0 && e.c.o.MaxAge <= 0 {
		return false, nil
	}
	e.pinned = pinnedIn(e.members)
	if e.busy, err = busy(ctx, e.members); err != nil {
		return false, err
	}
	found, err := e.scan(ctx, *want > 0)
	if err != nil {
		return false, err
	}
	going := e.choose(found, want)
	if e.o.DryRun {
		for _, h := range going {
			e.went(h)
		}
		return false, nil
	}
	for c, of := range byCache(going) {
		for some := range slices.Chunk(of, evictBatch) {
			if err := e.take(ctx, c, some, want); err != nil {
				return false, err
			}
		}
	}
	return len(going) > 0, nil
}

// take takes objects away from one of the caches. That this cannot be done is an error of this
// cache; another one may belong to somebody else.
func (e *eviction) take(ctx context.Context, c *Cache, some []held, want *int64) error {
	gone, err := c.takeAway(ctx, some, e.out)
	for _, h := range some {
		if !slices.Contains(gone, h) {
			e.stay(h)
			*want += h.bytes // another one has to go for it
		}
	}
	for _, h := range gone {
		e.went(h)
	}
	if err != nil && c != e.c && ctx.Err() == nil {
		c.o.Log.Warn(fmt.Sprintf("evicting from '%s': %v", c.o.Dir, err))
		err = nil
	}
	return err
}

// asked tells whether somebody has said what is to go.
func (e *eviction) asked() bool { return len(e.o.Paths) > 0 || e.o.All }

// went notes that an object has gone.
func (e *eviction) went(h held) {
	e.out.Paths = append(e.out.Paths, h.path)
	e.out.Bytes += h.bytes
	e.total.Objects--
	e.total.Bytes -= h.bytes
}

func (e *eviction) stay(h held) {
	if e.stays[h.c] == nil {
		e.stays[h.c] = storepath.Set{}
	}
	e.stays[h.c].Add(h.path)
}

// scan finds those that may go, the longest unused first. full tells that it is for want of room.
func (e *eviction) scan(ctx context.Context, full bool) ([]held, error) {
	found := &oldest{limit: evictScan}
	if e.o.DryRun {
		found.limit = 0
	}
	named := storepath.NewSet(e.o.Paths...)
	now := time.Now()
	old := time.Time{}
	if e.c.o.MaxAge > 0 {
		old = now.Add(-e.c.o.MaxAge)
	}
	for _, c := range e.members {
		err := c.eachHeld(ctx, false, func(h held) {
			switch {
			case e.stays[c].Has(h.path), e.pinned[c] == nil:
				return
			case e.o.All, named.Has(h.path):
			case !e.asked() && (full || h.used.Before(old)) && now.Sub(h.used) > justUsed:
			default:
				return
			}
			found.add(h)
		})
		if err != nil {
			return nil, err
		}
	}
	return found.sorted(), nil
}

// choose takes those that are to go of those that may.
func (e *eviction) choose(found []held, want *int64) (going []held) {
	old := time.Now().Add(-e.c.o.MaxAge)
	for _, h := range found {
		aged := e.c.o.MaxAge > 0 && h.used.Before(old)
		if !e.asked() && !aged && *want <= 0 {
			continue
		}
		switch {
		case e.pinned[h.c].Has(h.path):
			e.out.Pinned++
			e.stay(h)
			continue
		case e.busy.Has(h.path):
			e.out.InUse++
			e.stay(h)
			continue
		}
		h.bytes = h.c.diskSizeOf(h.path)
		*want -= h.bytes
		going = append(going, h)
	}
	return going
}

func byCache(all []held) map[*Cache][]held {
	m := map[*Cache][]held{}
	for _, h := range all {
		m[h.c] = append(m[h.c], h)
	}
	return m
}

// gone notes that objects which have been taken away were evicted.
func (c *Cache) gone(all []held) error {
	if len(all) == 0 {
		return nil
	}
	_, err := c.noted(func(t *tally) {
		for _, h := range all {
			t.Evicted++
			t.EvictedBytes += h.bytes
		}
	})
	return err
}

// excess is by how many bytes the caches are too large; once they are, somewhat more goes, so that not
// each new object makes another one go.
func (c *Cache) excess(total int64) (want int64) {
	if c.o.MaxBytes > 0 && total > c.o.MaxBytes {
		want = total - c.o.MaxBytes/10*9
	}
	var st unix.Statfs_t
	if c.o.MinFree > 0 && unix.Statfs(c.o.Dir, &st) == nil {
		if free := int64(min(st.Bavail*uint64(st.Bsize), 1<<62)); free < c.o.MinFree {
			want = max(want, c.o.MinFree-free+c.o.MinFree/10)
		}
	}
	return want
}

// takeAway removes objects. They are renamed away first; then those who may have them in mind are told
// to look again; then whatever turns out to be in use after all is put back. It gives those that
// went.
func (c *Cache) takeAway(ctx context.Context, going []held, out *Evicted) (gone []held, err error) {
	if len(going) == 0 {
		return nil, nil
	}
	trash, lock, err := c.workplace("evicted-")
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	var moved []held
	for _, h := range going {
		fetching := c.tryFetch(h.path)
		if fetching == nil {
			out.InUse++
			continue
		}
		defer fetching.done()
		err := c.step(-1, -h.bytes, func() error {
			return moveDir(c.at(objectsDir, h.path.Base()), filepath.Join(trash, h.path.Base()))
		})
		if errors.Is(err, fs.ErrNotExist) {
			continue // somebody else has taken it away, and counted that
		}
		if err != nil {
			return nil, errors.Join(err, c.putBack(trash, moved))
		}
		moved = append(moved, h)
		crashpoint.Reached("lazy: object taken away")
	}
	if err := c.forget(ctx, moved); err != nil {
		return nil, errors.Join(err, c.putBack(trash, moved))
	}
	busy, err := busy(ctx, []*Cache{c})
	if err != nil {
		return nil, errors.Join(err, c.putBack(trash, moved))
	}
	var back []held
	for _, h := range moved {
		if busy.Has(h.path) {
			back = append(back, h)
			out.InUse++
		} else {
			gone = append(gone, h)
		}
	}
	// Whatever is noted is noted while the trash is there: if this process is killed, whoever finds it counts anew.
	if err := errors.Join(c.putBack(trash, back), c.gone(gone)); err != nil {
		return gone, err
	}
	for _, h := range gone {
		for _, dir := range []string{infoDir, treesDir} {
			if err := os.Remove(c.at(dir, h.path.Base())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return gone, err
			}
		}
		crashpoint.Reached("lazy: info removed")
	}
	err = c.removeObjects(context.WithoutCancel(ctx), trash)
	crashpoint.Reached("lazy: evicted objects removed")
	return gone, err
}

// discard takes an object away that is not what it should be, whoever uses it.
func (c *Cache) discard(ctx context.Context, p storepath.Path) error {
	l, err := c.lockFetch(ctx, p)
	if err != nil {
		return err
	}
	defer fetching{l}.done()
	trash, lock, err := c.workplace("damaged-")
	if err != nil {
		return err
	}
	defer lock.Close()
	h := held{c: c, path: p, bytes: c.diskSizeOf(p)}
	err = c.step(-1, -h.bytes, func() error { return moveDir(c.at(objectsDir, p.Base()), filepath.Join(trash, p.Base())) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := c.forget(ctx, []held{h}); err != nil {
		c.o.Log.Warn(err.Error()) // what is wrong goes all the same
	}
	for _, dir := range []string{infoDir, treesDir} {
		if err := os.Remove(c.at(dir, p.Base())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	_, err = nar.RemoveTree(context.WithoutCancel(ctx), trash)
	return err
}

// putBack makes objects be there again.
func (c *Cache) putBack(trash string, moved []held) error {
	var all error
	for _, h := range moved {
		err := c.step(1, h.bytes, func() error {
			return moveDir(filepath.Join(trash, h.path.Base()), c.at(objectsDir, h.path.Base()))
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// How often a cache is looked at for what is old, and for what is too much when nothing
// could be taken away.
const (
	maintainAge  = 10 * time.Minute
	maintainFull = 10 * time.Second
)

// Maintain keeps a cache within its bounds until ctx ends. One process that uses the cache
// has to do so, and any number may.
func (c *Cache) Maintain(ctx context.Context) {
	if c.o.MaxBytes <= 0 && c.o.MaxAge <= 0 && c.o.MinFree <= 0 {
		return
	}
	for {
		out, err := c.Evict(ctx, EvictOptions{})
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			c.o.Log.Warn(err.Error())
		case len(out.Paths) > 0:
			c.o.Log.Info(fmt.Sprintf("%d objects were evicted, %d bytes", len(out.Paths), out.Bytes))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(maintainFull):
		}
		select {
		case <-ctx.Done():
			return
		case <-c.full:
		case <-time.After(maintainAge):
		}
	}
}
