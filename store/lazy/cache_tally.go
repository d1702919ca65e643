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
	// Counted is when all was looked at, in seconds since 1970; 0: it has to be; beingCounted: somebody
	// does so, and nothing has come or gone since that began.
	Counted int64
}

const beingCounted = 1

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
	was := t
	change(&t)
	if was.Counted == beingCounted && (t.Objects != was.Objects || t.Bytes != was.Bytes) && t.Counted == was.Counted {
		t.Counted = 0 // who is counting may have seen it or not
	}
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
func (c *Cache) added(bytes int64) { _ = c.step(0, bytes, func() error { return nil }) }

// step makes objects come, or go if there are fewer than none, and notes that, unless it fails with an error,
// which is the result. Nothing else is noted meanwhile: who counts anew has either both in the count, or neither, or
// learns that something has changed. It tells whoever maintains the cache if that may be too large now.
func (c *Cache) step(objects, bytes int64, make func() error) (err error) {
	made := false
	t, noteErr := c.noted(func(t *tally) {
		made = true
		if err = make(); err == nil {
			t.Objects += objects
			t.Bytes += bytes
		}
	})
	if !made { // on a disk that is full nothing can be noted, nor by who may not
		err = make()
	}
	if err != nil || noteErr == nil && !t.due() && c.excess(t.Bytes) <= 0 {
		return err
	}
	select {
	case c.full <- struct{}{}:
	default:
	}
	return nil
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
	if err == nil && t.Counted <= beingCounted {
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
