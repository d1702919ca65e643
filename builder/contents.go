package builder

import (
	"context"
	"sync"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// infoCache remembers infos of valid paths as long as a request lasts, whose
// temporary roots keep them valid. It is for any number of goroutines.
type infoCache struct {
	mu    sync.Mutex
	known map[storepath.Path]*store.PathInfo
}

// closure gives the infos of paths and of all that they refer to. It asks once
// for each level of what is not known yet.
func (c *infoCache) closure(ctx context.Context, s Store, paths []storepath.Path) ([]*store.PathInfo, error) {
	seen := storepath.NewSet(paths...)
	level := seen.Sorted()
	var all []*store.PathInfo
	for len(level) > 0 {
		infos, err := c.infos(ctx, s, level)
		if err != nil {
			return nil, err
		}
		var next []storepath.Path
		for _, info := range infos {
			for _, ref := range info.References {
				if seen.Add(ref) {
					next = append(next, ref)
				}
			}
		}
		all = append(all, infos...)
		level = next
	}
	return all, nil
}

// infos gives the infos of valid paths.
func (c *infoCache) infos(ctx context.Context, s Store, paths []storepath.Path) ([]*store.PathInfo, error) {
	out := make([]*store.PathInfo, len(paths))
	var asked []storepath.Path
	var where []int
	c.mu.Lock()
	for i, p := range paths {
		if out[i] = c.known[p]; out[i] == nil {
			asked, where = append(asked, p), append(where, i)
		}
	}
	c.mu.Unlock()
	if len(asked) == 0 {
		return out, nil
	}
	infos, err := s.PathInfos(ctx, asked)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, info := range infos {
		if info == nil {
			return nil, &store.InvalidPathError{Path: s.Dir().Print(asked[i])}
		}
		c.known[info.Path] = info
		out[where[i]] = info
	}
	return out, nil
}

// contents remembers of which objects the contents have been compared with their
// hash. It is for any number of goroutines.
type contents struct {
	mu   sync.Mutex
	good map[storepath.Path]bool
}

func (c *contents) note(p storepath.Path, good bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.good == nil {
		c.good = map[storepath.Path]bool{}
	}
	c.good[p] = good
}

func (c *contents) known(p storepath.Path) (good, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	good, known = c.good[p]
	return good, known
}

// intact compares the object of a valid path with its hash.
func (r *request) intact(ctx context.Context, p storepath.Path) (bool, error) {
	if good, known := r.good.known(p); known {
		return good, nil
	}
	full := r.Store.Dir().Print(p)
	activity.Logf(ctx, activity.Info, "checking path '%s'...", full)
	info, err := store.PathInfoOf(ctx, r.Store, p)
	if err != nil {
		return false, err
	}
	h := nixhash.SHA256.New()
	err = r.Store.NarFromPath(ctx, p, h)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	good := err == nil && (info.NarHash.IsZero() || nixhash.Sum(nixhash.SHA256, h) == info.NarHash)
	if !good {
		activity.Errorf(ctx, "path '%s' is corrupted or missing!", full)
	}
	r.good.note(p, good)
	return good, nil
}
