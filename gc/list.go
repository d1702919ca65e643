package gc

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
)

// texts makes very many texts in few pieces of memory.
type texts struct {
	piece *strings.Builder
	list  []string
}

// textPiece is how much of it is taken at a time.
const textPiece = 64 << 10

// add adds "<dir>/<name>".
func (t *texts) add(dir, name string) {
	size := len(dir) + 1 + len(name)
	if t.piece == nil || t.piece.Cap()-t.piece.Len() < size {
		t.piece = new(strings.Builder)
		t.piece.Grow(max(textPiece, size))
	}
	start := t.piece.Len()
	t.piece.WriteString(dir)
	t.piece.WriteByte('/')
	t.piece.WriteString(name)
	t.list = append(t.list, t.piece.String()[start:])
}

// sorted puts them in order.
func (t *texts) sorted() {
	if !slices.IsSorted(t.list) {
		slices.Sort(t.list)
	}
}

// listNodes lists the valid paths that are alive, or that are not.
func (c *collection) listNodes(alive bool) {
	n := 0
	for i := range c.graph.Len() {
		if c.alive.has(i) == alive {
			n++
		}
	}
	c.texts.list = slices.Grow(c.texts.list, n)
	for i := range c.graph.Len() {
		if c.alive.has(i) == alive {
			c.texts.add(string(c.Dir), c.graph.Path(i).Base())
		}
	}
}

// listLive lists what is alive.
func (c *collection) listLive(ctx context.Context) error {
	c.listNodes(true)
	c.texts.sorted()
	return ctx.Err()
}

// listDead lists what would be deleted.
func (c *collection) listDead(ctx context.Context) error {
	activity.Logf(ctx, activity.Info, "determining live/dead paths...")
	stray, err := c.strays(ctx)
	if err != nil {
		return err
	}
	c.listNodes(false)
	for _, name := range stray {
		c.texts.add(string(c.Dir), name)
	}
	c.texts.sorted()
	if c.opts.Measure {
		if err := c.weighAll(ctx); err != nil {
			return err
		}
	}
	c.survivors()
	c.result.Measured = c.opts.Measure
	return nil
}

// weighBatch is how many footprints are in memory at once.
const weighBatch = 4096

// weighAll tells how many bytes would leave the disk with what is listed.
func (c *collection) weighAll(ctx context.Context) error {
	ctx, act := activity.Start(ctx, activity.Info, activity.Unknown, "measuring garbage")
	defer act.Stop()
	done := 0
	for chunk := range slices.Chunk(c.texts.list, weighBatch) {
		act.Progress(uint64(done), uint64(len(c.texts.list)), 0, 0) //nolint:gosec // counts
		names := make([]string, len(chunk))
		for i, text := range chunk {
			names[i] = text[len(c.Dir)+1:]
		}
		prints, err := c.weigh(ctx, names)
		if err != nil {
			return err
		}
		for _, f := range prints {
			own, linked := c.account.spend(f)
			c.result.BytesFreed += own + linked
		}
		done += len(chunk)
	}
	return nil
}

// survivors explains the largest of what stays and takes room here.
func (c *collection) survivors() {
	if c.opts.Survivors == 0 {
		return
	}
	var alive []int32
	for i := range c.graph.Len() {
		if c.alive.has(i) {
			alive = append(alive, int32(i)) //nolint:gosec // a number of a node
		}
	}
	slices.SortFunc(alive, func(a, b int32) int {
		return cmp.Or(cmp.Compare(c.graph.NarSize(int(b)), c.graph.NarSize(int(a))), cmp.Compare(a, b))
	})
	w := newWhy(c.graph, c.keeps, c.roots)
	for _, i := range alive {
		if len(c.result.Survivors) == c.opts.Survivors {
			return
		}
		if c.layered() && !c.isHere(c.graph.Path(int(i)).Base()) {
			continue // it is a lower's
		}
		s := store.Survivor{Path: c.graph.Path(int(i)), NarSize: c.graph.NarSize(int(i))}
		if r := w.reasons(int(i), true); len(r) > 0 {
			s.Why = r[0]
		}
		c.result.Survivors = append(c.result.Survivors, s)
	}
}
