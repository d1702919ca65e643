package gc

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
	if c.opts.Referrers {
		newWhy(c.graph, nil, nil).addReferrers(wanted)
	}
	blocked := c.blocked(wanted)
	if c.opts.SkipAlive {
		return c.deleteListed(ctx, wanted, blocked, slices.DeleteFunc(slices.Clone(c.opts.Paths), c.isRooted))
	}
	for n, p := range c.opts.Paths {
		i := c.graph.Find(p)
		if i >= 0 && blocked.has(i) || i < 0 && c.isRooted(p) {
			before := newBits(c.graph.Len())
			if !c.opts.Referrers {
				for _, p := range c.opts.Paths[:n] {
					if i := c.graph.Find(p); i >= 0 {
						before.set(i)
					}
				}
			}
			return errors.Join(c.deleteListed(ctx, before, blocked, c.opts.Paths[:n]), &AliveError{Path: c.Dir.Print(p)})
		}
	}
	return c.deleteListed(ctx, wanted, blocked, c.opts.Paths)
}

// isRooted tells whether a path that is not valid is one that somebody is making.
func (c *collection) isRooted(p storepath.Path) bool {
	return c.rooted.Has(p) || c.tempRooted[p.HashPart()]
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

// deleteListed deletes the nodes that are wanted and not blocked, and those of paths
// that are not valid.
func (c *collection) deleteListed(ctx context.Context, wanted, blocked bits, paths []storepath.Path) error {
	if err := c.deleteNodes(ctx, func(i int) bool { return wanted.has(i) && !blocked.has(i) }); err != nil {
		return err
	}
	var strays []string
	for _, p := range paths {
		if c.graph.Find(p) < 0 {
			strays = append(strays, p.Base())
		}
	}
	return c.deleteStrays(ctx, strays)
}
