package gc

import (
	"context"
	"fmt"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// AliveError says which path cannot be deleted.
type AliveError struct{ Path string }

func (e *AliveError) Error() string {
	return fmt.Sprintf("Cannot delete path '%s' since it is still alive. "+
		"To find out why, use: nix-store --query --roots and nix-store --query --referrers", e.Path)
}

// Unwrap makes it a store.ErrAlive.
func (e *AliveError) Unwrap() error { return store.ErrAlive }

// deleteSpecific deletes the paths asked for. One that is alive, or has a
// referrer that is not asked for too, is an error; those that come before it in
// the request are deleted all the same, as in Nix.
func (c *collection) deleteSpecific(ctx context.Context) error {
	c.opts.MaxFreed = store.NoLimit
	wanted := newBits(c.graph.Len())
	for _, p := range c.opts.Paths {
		if i := c.graph.Find(p); i >= 0 {
			wanted.set(i)
		}
	}
	blocked := c.blocked(wanted)
	for n, p := range c.opts.Paths {
		i := c.graph.Find(p)
		if i >= 0 && blocked.has(i) || i < 0 && (c.rooted.Has(p) || c.tempRooted[p.HashPart()]) {
			if err := c.deleteListed(ctx, c.opts.Paths[:n]); err != nil {
				return err
			}
			return &AliveError{Path: c.Dir.Print(p)}
		}
	}
	return c.deleteListed(ctx, c.opts.Paths)
}

// blocked are the nodes that must stay: what is alive, what is not wanted gone,
// and all that those refer to.
func (c *collection) blocked(wanted bits) bits {
	stay := newBits(c.graph.Len())
	for i := range c.graph.Len() {
		if !wanted.has(i) || c.alive.has(i) {
			mark(c.graph, c.keeps, stay, i)
		}
	}
	return stay
}

// deleteListed deletes paths of which none is blocked.
func (c *collection) deleteListed(ctx context.Context, paths []storepath.Path) error {
	nodes := newBits(c.graph.Len())
	var strays []string
	for _, p := range paths {
		if i := c.graph.Find(p); i >= 0 {
			nodes.set(i)
		} else {
			strays = append(strays, p.Base())
		}
	}
	if err := c.deleteNodes(ctx, referrersFirst(c.graph, nodes.has)); err != nil {
		return err
	}
	return c.deleteStrays(ctx, strays)
}
