package lazy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// errBound says that something is not kept, since the cache would become too large.
var errBound = errors.New("the cache may not become larger, and all of it was used just now")

// clearing makes room when files come, for all who write them.
type clearing struct {
	mu    sync.Mutex
	vain  time.Time    // when not enough could be taken away
	times atomic.Int64 // how often it could
}

// makeWay has others evicted if the bounds want that, or if the disk has no room for so many bytes. After an error
// nothing more is to be written: what comes is given to who reads it, and not kept. So what is read now takes no
// more room than the bounds allow, however much it is, and does not go for what is read next to it.
func (c *Cache) makeWay(room int64) error {
	if room <= 0 && c.excess(c.total()) <= 0 {
		return nil
	}
	w := &c.way
	before := w.times.Load()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case room <= 0 && c.excess(c.total()) <= 0, room > 0 && w.times.Load() != before:
		return nil // somebody else has just done so
	case time.Since(w.vain) < maintainFull:
		return errBound
	}
	out, err := c.Evict(context.Background(), EvictOptions{Room: room})
	if err == nil && c.excess(c.total()) <= 0 && (room <= 0 || out.Bytes > 0) {
		w.times.Add(1)
		return nil
	}
	w.vain = time.Now()
	if err != nil {
		return fmt.Errorf("%w: %w", errBound, err)
	}
	return errBound
}
