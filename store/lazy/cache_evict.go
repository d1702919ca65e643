package lazy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/gc"
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

// held is an object as an eviction sees it.
type held struct {
	path  storepath.Path
	used  time.Time
	bytes int64
}

// Evict takes objects away, the ones that were not used for longest first, and never one that is
// pinned, that a process uses, or that is just arriving. Several evictions wait for each other. After an error it
// has done a part.
func (c *Cache) Evict(ctx context.Context, o EvictOptions) (*Evicted, error) {
	lock, err := flock.Open(c.at(evictLock))
	if err != nil {
		return nil, fmt.Errorf("cache of lazy objects: %w", err)
	}
	defer lock.Close()
	if err := lock.Lock(ctx, flock.Exclusive, nil); err != nil {
		return nil, err
	}
	all, total, err := c.holdings()
	if err != nil {
		return nil, fmt.Errorf("cache of lazy objects: %w", err)
	}
	out := &Evicted{}
	going, err := c.choose(ctx, all, total, o, out)
	if err == nil && !o.DryRun {
		var gone []held
		for some := range slices.Chunk(going, evictBatch) {
			var went []held
			went, err = c.takeAway(ctx, some, out)
			gone = append(gone, went...)
			if err != nil {
				break
			}
		}
		going = gone
	}
	for _, h := range going {
		out.Paths = append(out.Paths, h.path)
		out.Bytes += h.bytes
	}
	out.Objects, out.Left = len(all)-len(going), total-out.Bytes
	if !o.DryRun {
		c.mu.Lock()
		c.rough = out.Left
		c.mu.Unlock()
	}
	return out, err
}

// holdings lists the objects that are here, and removes what belongs to none.
func (c *Cache) holdings() (all []held, total int64, err error) {
	paths, err := c.List()
	if err != nil {
		return nil, 0, err
	}
	for _, p := range paths {
		h := held{path: p}
		if fi, err := os.Stat(c.at(infoDir, p.Base())); err == nil {
			h.used = fi.ModTime()
		}
		if kept, err := c.readInfo(p); err == nil {
			h.bytes = kept.disk
		}
		total += h.bytes
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b held) int { return cmp.Or(a.used.Compare(b.used), storepath.Compare(a.path, b.path)) })
	for _, dir := range []string{infoDir, treesDir} {
		c.sweepOrphans(dir)
	}
	return all, total, nil
}

// sweepOrphans removes files beside objects that are not there: what a killed process
// left between two steps.
func (c *Cache) sweepOrphans(dir string) {
	names, err := readNames(c.at(dir))
	if err != nil {
		return
	}
	for _, name := range names {
		p, err := storepath.ParseBase(name)
		if err != nil || c.Has(p) {
			continue
		}
		if lock := c.tryFetch(p); lock != nil {
			if !c.Has(p) {
				_ = os.Remove(c.at(dir, name))
			}
			lock.done()
		}
	}
}

// choose finds what is to go, the longest unused first.
func (c *Cache) choose(ctx context.Context, all []held, total int64, o EvictOptions, out *Evicted) ([]held, error) {
	want := c.excess(total) + o.Room
	named := storepath.NewSet(o.Paths...)
	old := time.Time{}
	if c.o.MaxAge > 0 {
		old = time.Now().Add(-c.o.MaxAge)
	}
	bySelf := len(o.Paths) == 0 && !o.All
	var going []held
	for _, h := range all {
		switch {
		case o.All, named.Has(h.path):
		case bySelf && (want > 0 || h.used.Before(old)) && time.Since(h.used) > justUsed:
		default:
			continue
		}
		going = append(going, h)
		want -= h.bytes
	}
	if len(going) == 0 {
		return nil, nil
	}
	pinned, err := c.pinned()
	if err != nil {
		return nil, err
	}
	busy, err := c.busy(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(going, func(h held) bool {
		switch {
		case pinned.Has(h.path):
			out.Pinned++
		case busy.Has(h.path):
			out.InUse++
		default:
			return false
		}
		return true
	}), nil
}

// excess is by how many bytes the cache is too large; once it is, somewhat more goes, so that not
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

// busy are the objects that processes use, wherever they see them.
func (c *Cache) busy(ctx context.Context) (storepath.Set, error) {
	dirs := []string{c.Objects()}
	users, err := c.users()
	if err != nil {
		return nil, err
	}
	for _, u := range users {
		dirs = append(dirs, u.Dirs...)
	}
	roots, err := gc.ProcessRoots(ctx, "/proc", c.o.StoreDir, dirs...)
	if err != nil {
		return nil, fmt.Errorf("finding out what is in use: %w", err)
	}
	set := make(storepath.Set, len(roots))
	for p := range roots {
		set.Add(p)
	}
	return set, nil
}

// takeAway removes objects. They are renamed away first; then those who may have them in mind are told
// to look again; then whatever turns out to be in use after all is put back. It gives those that
// went.
func (c *Cache) takeAway(ctx context.Context, going []held, out *Evicted) (gone []held, err error) {
	if len(going) == 0 {
		return nil, nil
	}
	trash, err := os.MkdirTemp(c.at(tmpDir), "evicted-")
	if err != nil {
		return nil, err
	}
	lock, err := flock.Open(filepath.Join(trash, stageLock))
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if _, err := lock.Try(flock.Exclusive); err != nil {
		return nil, err
	}
	var moved []held
	for _, h := range going {
		fetching := c.tryFetch(h.path)
		if fetching == nil {
			out.InUse++
			continue
		}
		defer fetching.done()
		err := moveDir(c.at(objectsDir, h.path.Base()), filepath.Join(trash, h.path.Base()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, c.putBack(trash, moved))
		}
		moved = append(moved, h)
		crashpoint.Reached("lazy: object taken away")
	}
	if err := c.forget(ctx, moved); err != nil {
		return nil, errors.Join(err, c.putBack(trash, moved))
	}
	busy, err := c.busy(ctx)
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
	if err := c.putBack(trash, back); err != nil {
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
	_, err = nar.RemoveTree(context.WithoutCancel(ctx), trash)
	return gone, err
}

// putBack makes objects be there again.
func (c *Cache) putBack(trash string, moved []held) error {
	var all error
	for _, h := range moved {
		err := moveDir(filepath.Join(trash, h.path.Base()), c.at(objectsDir, h.path.Base()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// added notes that an object has come, and that the cache may be too large now.
func (c *Cache) added(bytes int64) {
	c.mu.Lock()
	if c.rough >= 0 {
		c.rough += bytes
	}
	full := c.rough < 0 || c.excess(c.rough) > 0
	c.mu.Unlock()
	if full {
		select {
		case c.full <- struct{}{}:
		default:
		}
	}
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
