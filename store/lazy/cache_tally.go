package lazy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/strata-nix/strata/internal/flock"
)

// tally is what the caches of a pool hold together, as their processes count it along: to look at
// each of 10^6 objects takes a while. It is counted anew once a day, and after a process was killed.
type tally struct {
	Objects, Bytes int64
	// Evicted and EvictedBytes went since the file was made.
	Evicted, EvictedBytes int64
	// Counted is when all was looked at, in seconds since 1970; 0: it has to be.
	Counted int64
}

// tallyFile is where it is, locked by who changes it: the five numbers, of 20 digits each.
const tallyFile = "tally"

const tallyForm = "%020d %020d %020d %020d %020d\n"

// tallySize is the length of the file.
const tallySize = 5 * 21

// recountAfter is how old a count may be.
const recountAfter = 24 * time.Hour

// due tells whether all has to be looked at.
func (t tally) due() bool {
	age := time.Since(time.Unix(t.Counted, 0))
	return age > recountAfter || age < -time.Minute
}

// parseTally reads one; what is damaged has to be counted anew.
func parseTally(text []byte) (t tally) {
	n, err := fmt.Sscanf(string(text), "%d %d %d %d %d\n", &t.Objects, &t.Bytes, &t.Evicted, &t.EvictedBytes, &t.Counted)
	if n != 5 || err != nil || len(text) != tallySize || t.Objects < 0 || t.Bytes < 0 || t.Evicted < 0 || t.EvictedBytes < 0 {
		return tally{}
	}
	return t
}

func (t tally) text() []byte {
	return fmt.Appendf(nil, tallyForm, max(t.Objects, 0), max(t.Bytes, 0), t.Evicted, t.EvictedBytes, max(t.Counted, 0))
}

// tally reads it, after change, if not nil, has changed it.
func (c *Cache) tally(change func(*tally)) (t tally, err error) {
	l, err := flock.Open(filepath.Join(c.pool(), tallyFile))
	if err != nil {
		return t, err
	}
	defer l.Close()
	mode := flock.Shared
	if change != nil {
		mode = flock.Exclusive
	}
	// Nobody has the lock for longer than it takes to write a line.
	if err := l.Lock(context.Background(), mode, nil); err != nil {
		return t, err
	}
	text := make([]byte, tallySize+1)
	n, err := l.File().ReadAt(text, 0)
	if err != nil && n == 0 && !errors.Is(err, io.EOF) {
		return t, err
	}
	t = parseTally(text[:n])
	if change == nil {
		return t, nil
	}
	change(&t)
	if n > tallySize {
		if err := l.File().Truncate(0); err != nil {
			return t, err
		}
	}
	_, err = l.File().WriteAt(t.text(), 0)
	return t, err
}

// uncounted makes the next eviction count anew: somebody was killed, or cannot count.
func (c *Cache) uncounted() {
	if _, err := c.tally(func(t *tally) { t.Counted = 0 }); err != nil && !errors.Is(err, os.ErrPermission) {
		c.o.Log.Debug(fmt.Sprintf("the tally of a cache cannot be written: %v", err))
	}
}

// added notes that bytes have come without an object being complete, or gone if they are negative.
func (c *Cache) added(bytes int64) { c.addedObjects(0, bytes) }

// addedObjects notes that objects have come, and that the cache may be too large now.
func (c *Cache) addedObjects(objects, bytes int64) {
	t, err := c.noted(func(t *tally) {
		t.Objects += objects
		t.Bytes += bytes
	})
	// On a disk that is full nothing can be noted either.
	if err == nil && !t.due() && c.excess(t.Bytes) <= 0 {
		return
	}
	select {
	case c.full <- struct{}{}:
	default:
	}
}

// Usage is what caches that share their bounds hold.
type Usage struct {
	Objects int64 `json:"objects"` // complete ones
	Bytes   int64 `json:"bytes"`   // about what they take on disk
	Bound   int64 `json:"bound"`   // 0: none
	// Evicted and EvictedBytes went since the directory was made.
	Evicted      int64 `json:"evicted"`
	EvictedBytes int64 `json:"evictedBytes"`
}

// Usage tells what the cache holds, with those that share its bounds. It looks at everything
// only if nobody has counted yet.
func (c *Cache) Usage(ctx context.Context) (Usage, error) {
	c.note()
	t, err := c.tally(nil)
	if err == nil && t.Counted == 0 {
		t, err = c.count(ctx)
	}
	if err != nil {
		return Usage{}, fmt.Errorf("cache of lazy objects: %w", err)
	}
	return Usage{Objects: t.Objects, Bytes: t.Bytes, Bound: c.o.MaxBytes, Evicted: t.Evicted, EvictedBytes: t.EvictedBytes}, nil
}

// count looks at everything.
func (c *Cache) count(ctx context.Context) (tally, error) {
	members, end, err := c.members()
	if err != nil {
		return tally{}, err
	}
	defer end()
	return c.recount(ctx, members)
}
