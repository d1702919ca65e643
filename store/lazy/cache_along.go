package lazy

import (
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/strata-nix/strata/internal/flock"
)

// along is what a process has written to a cache and not yet noted in the tally: to note each chunk would cost more than
// to write it. As long as there is something, a directory in tmp says so that the process has locked: if it is killed, the
// next one finds that directory, and all is counted anew.
type along struct {
	mu      sync.Mutex
	bytes   int64 // that are written and not noted
	writing int   // how many are just being written
	total   int64 // what the caches of the pool held when that was last seen
	dir     string
	lock    *flock.Lock // of dir; nil: there is none
	timer   *time.Timer // that notes; nil: nothing is to be noted
}

// How much a process may have written, and for how long, before it is noted.
const (
	noteBytes = 4 << 20
	noteAfter = time.Second
)

// writes has to be called before bytes are written that no complete object has. done has to be called after that, with how many have
// come.
func (c *Cache) writes() (done func(bytes int64)) {
	a := &c.along
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lock == nil {
		dir, lock, err := c.workplace("counting-")
		if err != nil {
			return c.added // without the directory nothing may be left unnoted
		}
		a.dir, a.lock = dir, lock
		if t, err := c.tally(nil); err == nil {
			a.total = t.Bytes
		}
	}
	a.writing++
	return func(bytes int64) {
		a.mu.Lock()
		a.writing--
		a.bytes += bytes
		now := a.bytes >= noteBytes
		if !now && a.timer == nil {
			a.timer = time.AfterFunc(noteAfter, c.note)
		}
		a.mu.Unlock()
		if now {
			c.note()
		}
	}
}

// note brings the tally up to date.
func (c *Cache) note() {
	c.along.mu.Lock()
	idle := c.along.lock == nil
	c.along.mu.Unlock()
	if !idle {
		c.added(0)
	}
}

// endNotes is note when nothing more comes. What cannot be noted is found by the next one who opens the cache.
func (c *Cache) endNotes() error {
	c.note()
	a := &c.along
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
	}
	if a.lock == nil {
		return nil
	}
	lock := a.lock
	a.lock = nil
	return lock.Close()
}

// noted notes what has come, together with a change. Nothing is lost if that fails.
func (c *Cache) noted(change func(*tally)) (tally, error) {
	a := &c.along
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
	t, err := c.tally(func(t *tally) {
		t.Bytes += a.bytes
		change(t)
	})
	if err != nil {
		return t, err
	}
	a.bytes, a.total = 0, max(t.Bytes, 0)
	if a.lock != nil && a.writing == 0 {
		_ = os.Remove(filepath.Join(a.dir, stageLock))
		_ = os.Remove(a.dir)
		_ = a.lock.Close() // last: nobody else is to find it without
		a.lock = nil
	}
	return t, nil
}

// total is about what the caches of the pool hold.
func (c *Cache) total() int64 {
	c.along.mu.Lock()
	defer c.along.mu.Unlock()
	return c.along.total + c.along.bytes
}
