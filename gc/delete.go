package gc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// deleteDead deletes everything that is not alive.
func (c *collection) deleteDead(ctx context.Context) error {
	activity.Logf(ctx, activity.Info, "deleting garbage...")
	stray, err := c.strays(ctx)
	if err != nil {
		return err
	}
	if err := c.deleteNodes(ctx, func(i int) bool { return !c.alive.has(i) }); err != nil {
		return err
	}
	return c.deleteStrays(ctx, stray)
}

// isStray tells whether something that is not a valid path is garbage.
func (c *collection) isStray(name string) bool {
	if p, err := storepath.ParseBase(name); err == nil {
		return !c.rooted.Has(p) && !c.tempRooted[p.HashPart()]
	}
	switch {
	case name == c.Links, strings.HasPrefix(name, ".nfs"):
		return false
	case isNixTemp(name):
		release, ok := c.Claim(name)
		if ok {
			release()
		}
		return ok
	}
	return true
}

// isNixTemp tells whether an entry may be one of Nix's temporary directories.
func isNixTemp(name string) bool { return strings.HasPrefix(name, "tmp-") }

// deleteNodes deletes the valid paths for which want holds, referrers first, so that
// wherever it stops everything that is left is whole.
func (c *collection) deleteNodes(ctx context.Context, want func(i int) bool) error {
	order, ring := referrersFirst(c.graph, want)
	for chunk := range slices.Chunk(order[:ring], batch) {
		if err := c.deleteChunk(ctx, chunk); err != nil {
			return err
		}
	}
	if ring == len(order) {
		return nil
	}
	return c.deleteChunk(ctx, order[ring:])
}

func (c *collection) deleteChunk(ctx context.Context, chunk []int32) error {
	// What a client asked for meanwhile is alive with all that it refers to, which
	// comes later in the order or in this chunk.
	for _, i := range chunk {
		if c.server.rooted(c.graph.Path(int(i)).HashPart()) {
			mark(c.graph, c.keeps, c.alive, int(i))
		}
	}
	names := make([]string, 0, len(chunk))
	for _, i := range chunk {
		if !c.alive.has(int(i)) {
			names = append(names, c.graph.Path(int(i)).Base())
		}
	}
	return c.deleteNames(ctx, names, true)
}

func (c *collection) deleteStrays(ctx context.Context, names []string) error {
	for chunk := range slices.Chunk(names, batch) {
		if err := c.deleteNames(ctx, chunk, false); err != nil {
			return err
		}
	}
	return nil
}

// deleteNames deletes a batch, in as many steps as the limit asks for: each is as
// much as may go before somebody looks whether that is enough.
func (c *collection) deleteNames(ctx context.Context, names []string, valid bool) error {
	if c.opts.MaxFreed == store.NoLimit {
		return c.deleteStep(ctx, names, valid)
	}
	prints, err := c.weigh(ctx, names)
	if err != nil {
		return err
	}
	for len(names) > 0 {
		n, sum := 0, c.result.BytesFreed
		for n < len(names) && sum <= c.opts.MaxFreed {
			own, linked := c.account.spend(prints[n])
			sum += own + linked
			c.linked += linked
			n++
		}
		if err := c.deleteStep(ctx, names[:n], valid); err != nil {
			return err
		}
		names, prints = names[n:], prints[n:]
	}
	return nil
}

// weigh takes the footprints of what is about to be deleted under a limit.
func (c *collection) weigh(ctx context.Context, names []string) (prints []footprint, err error) {
	if c.account == nil {
		if c.account, err = newLedger(ctx, c.links()); err != nil {
			return nil, err
		}
	}
	return measure(ctx, c.Deletable, names)
}

// deleteStep deletes what nobody wants kept: rows first, so that a crash leaves
// strays and never valid paths without contents.
func (c *collection) deleteStep(ctx context.Context, names []string, valid bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.trash == nil {
		var err error
		if c.trash, err = newTrash(ctx, &c.Parts); err != nil {
			return fmt.Errorf("deleting garbage: %w", err)
		}
	}
	drop, moves, err := c.vanish(ctx, c.server.claim(names), valid)
	if err != nil {
		return err
	}
	for i := range moves {
		m := &moves[i]
		switch {
		case m.Err == nil, errors.Is(m.Err, fs.ErrNotExist) && !c.layered():
			activity.Logf(ctx, activity.Info, "deleting '%s'", string(c.Dir)+"/"+m.Name)
			c.texts.add(string(c.Dir), m.Name)
		case !errors.Is(m.Err, fs.ErrNotExist):
			c.trash.fail(fmt.Errorf("deleting '%s': %w", string(c.Dir)+"/"+m.Name, m.Err))
		}
	}
	drop()
	if c.opts.MaxFreed == store.NoLimit {
		return nil
	}
	if c.result.BytesFreed = c.trash.settle() + c.linked; c.result.BytesFreed > c.opts.MaxFreed {
		activity.Logf(ctx, activity.Info, "deleted more than %d bytes; stopping", c.opts.MaxFreed)
		return errLimit
	}
	return nil
}

// vanish makes what the server holds pending for us invalid and takes it out of
// sight. Clients wait for this.
func (c *collection) vanish(ctx context.Context, names []string, valid bool) (drop func(), moves []Move, err error) {
	defer c.server.release()
	if valid {
		if names, err = c.invalidate(ctx, names); err != nil {
			return nil, nil, err
		}
		crashpoint.Reached("gc: rows deleted")
	}
	if !valid {
		var release func()
		names, release = c.claimTemp(names)
		defer release()
	}
	drop, moves, err = c.trash.take(ctx, names)
	crashpoint.Reached("gc: objects moved aside")
	return drop, moves, err
}

// claimTemp leaves out the temporary directories that somebody has begun to use since they were
// listed, and keeps the others from that until release.
func (c *collection) claimTemp(names []string) (free []string, release func()) {
	var held []func()
	names = slices.DeleteFunc(names, func(n string) bool {
		if !isNixTemp(n) {
			return false
		}
		r, ok := c.Claim(n)
		if ok {
			held = append(held, r)
		}
		return !ok
	})
	return names, func() {
		for _, r := range held {
			r()
		}
	}
}

func (c *collection) invalidate(ctx context.Context, names []string) ([]string, error) {
	paths := make([]storepath.Path, 0, len(names))
	for _, n := range names {
		p, err := storepath.ParseBase(n)
		if err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	inUse, err := c.Invalidate(ctx, paths)
	if err != nil || len(inUse) == 0 {
		return names, err
	}
	kept := storepath.NewSet(inUse...)
	for _, p := range inUse {
		if i := c.graph.Find(p); i >= 0 {
			mark(c.graph, c.keeps, c.alive, i)
		}
	}
	return slices.DeleteFunc(names, func(n string) bool {
		p, err := storepath.ParseBase(n)
		return err != nil || kept.Has(p)
	}), nil
}
