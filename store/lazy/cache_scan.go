package lazy

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/storepath"
)

// held is an object as an eviction sees it.
type held struct {
	c     *Cache
	path  storepath.Path
	used  time.Time
	bytes int64
}

func compareHeld(a, b held) int {
	return cmp.Or(a.used.Compare(b.used), storepath.Compare(a.path, b.path), cmp.Compare(a.c.o.Dir, b.c.o.Dir))
}

// oldest are the up to limit objects that were not used for longest; any number if limit is 0.
type oldest struct {
	limit int
	heap  newestFirst
}

type newestFirst []held

func (n newestFirst) Len() int           { return len(n) }
func (n newestFirst) Less(i, j int) bool { return compareHeld(n[i], n[j]) > 0 }
func (n newestFirst) Swap(i, j int)      { n[i], n[j] = n[j], n[i] }
func (n *newestFirst) Push(x any)        { *n = append(*n, x.(held)) }
func (n *newestFirst) Pop() any {
	last := (*n)[len(*n)-1]
	*n = (*n)[:len(*n)-1]
	return last
}

func (o *oldest) add(h held) {
	switch {
	case o.limit == 0:
		o.heap = append(o.heap, h)
	case len(o.heap) < o.limit:
		heap.Push(&o.heap, h)
	case compareHeld(h, o.heap[0]) < 0:
		o.heap[0] = h
		heap.Fix(&o.heap, 0)
	}
}

// sorted gives them, the longest unused first.
func (o *oldest) sorted() []held {
	slices.SortFunc(o.heap, compareHeld)
	return o.heap
}

// eachHeld calls f for each object that is here, in no order. sizes tells whether it is to know how
// much each takes.
func (c *Cache) eachHeld(ctx context.Context, sizes bool, f func(held)) error {
	return eachName(ctx, c.Objects(), func(name string) {
		p, err := storepath.ParseBase(name)
		if err != nil {
			return
		}
		h := held{c: c, path: p, used: c.lastUse(p)}
		if sizes {
			h.bytes = c.diskSizeOf(p)
		}
		f(h)
	})
}

// eachName calls f for the entries of a directory without having all of them in memory.
func eachName(ctx context.Context, dir string, f func(name string)) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(1024)
		for _, name := range names {
			f(name)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// lastUse is when an object was last used; zero if nothing is known of it.
func (c *Cache) lastUse(p storepath.Path) time.Time {
	var st unix.Stat_t
	if unix.Lstat(c.at(infoDir, p.Base()), &st) != nil {
		return time.Time{}
	}
	return time.Unix(st.Mtim.Unix())
}

// diskSizeOf is about what an object takes on disk; 0 if nobody knows.
func (c *Cache) diskSizeOf(p storepath.Path) int64 {
	text, err := readSmall(c.at(infoDir, p.Base()), narinfo.MaxSize)
	if err != nil {
		return 0
	}
	return parseDiskSize(text)
}

// countAgain is after how many times as long as a count took it is made again, if something has changed meanwhile.
const countAgain = 100

// recount looks at all that the members hold, and removes what belongs to no object.
func (c *Cache) recount(ctx context.Context, members []*Cache) (tally, error) {
	var objects, bytes int64
	began := time.Now()
	before, err := c.noted(func(t *tally) { t.Counted = beingCounted })
	if err != nil {
		return before, err
	}
	for _, m := range members {
		err := m.eachHeld(ctx, true, func(h held) {
			objects++
			bytes += h.bytes
		})
		if err != nil && (m == c || ctx.Err() != nil) {
			return before, err
		}
		for _, dir := range []string{infoDir, treesDir} {
			m.sweepOrphans(ctx, dir)
		}
		_, alone := m.sweepFiles(ctx, nil, false, time.Time{})
		bytes += alone
	}
	return c.noted(func(t *tally) {
		counted := began
		if t.Counted != beingCounted {
			// What came or went meanwhile may have been seen or not. So all is looked at again before long, by
			// which a hundredth of the time goes into it at most.
			counted = began.Add(min(countAgain*time.Since(began)+time.Second, recountAfter) - recountAfter)
		}
		t.Objects, t.Bytes, t.Counted = objects, bytes, counted.Unix()
	})
}

// sweepOrphans removes files beside objects that are not there: what a killed process
// left between two steps.
func (c *Cache) sweepOrphans(ctx context.Context, dir string) {
	_ = eachName(ctx, c.at(dir), func(name string) {
		p, err := storepath.ParseBase(name)
		if err != nil || c.Has(p) {
			return
		}
		if lock := c.tryFetch(p); lock != nil {
			if !c.Has(p) {
				_ = os.Remove(c.at(dir, name))
			}
			lock.done()
		}
	})
}
