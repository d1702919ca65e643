package lazy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/storepath"
)

// pool is the directory whose caches share their bounds: there is one for each domain of trust.
func (c *Cache) pool() string {
	if c.o.Pool != "" {
		return c.o.Pool
	}
	return c.o.Dir
}

// members are the caches of the pool, this one first. What cannot be opened, such as that of another
// user, counts for nothing. close closes all but this one.
func (c *Cache) members() (all []*Cache, end func(), err error) {
	all = []*Cache{c}
	end = func() {
		for _, m := range all[1:] {
			_ = m.Close()
		}
	}
	if c.pool() == c.o.Dir {
		return all, end, nil
	}
	entries, err := os.ReadDir(c.pool())
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		dir := filepath.Join(c.pool(), e.Name())
		if dir == c.o.Dir || !e.IsDir() {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, versionFile)); err != nil {
			continue
		}
		o := c.o
		o.Dir = dir
		m, err := OpenCache(o)
		if err != nil {
			c.o.Log.Debug(fmt.Sprintf("'%s' is not looked at: %v", dir, err))
			continue
		}
		all = append(all, m)
	}
	return all, end, nil
}

// busy are the objects that processes use, wherever they see them.
func busy(ctx context.Context, members []*Cache) (storepath.Set, error) {
	dirs := map[storepath.Dir][]string{}
	for _, c := range members {
		dirs[c.o.StoreDir] = append(dirs[c.o.StoreDir], c.Objects())
		users, err := c.users()
		if err != nil {
			return nil, err
		}
		for _, u := range users {
			of := c.o.StoreDir
			if d, err := storepath.ParseDir(u.Store); err == nil {
				of = d
			}
			dirs[of] = append(dirs[of], u.Dirs...)
		}
	}
	set := storepath.Set{}
	for dir, at := range dirs {
		roots, err := gc.ProcessRoots(ctx, "/proc", dir, at...)
		if err != nil {
			return nil, fmt.Errorf("finding out what is in use: %w", err)
		}
		for p := range roots {
			set.Add(p)
		}
	}
	return set, nil
}

// pinnedIn are what must not go of any of the caches. One whose pins cannot be read is left
// out: nothing of it goes.
func pinnedIn(members []*Cache) map[*Cache]storepath.Set {
	all := make(map[*Cache]storepath.Set, len(members))
	for _, c := range members {
		set, err := c.pinned()
		if err != nil {
			c.o.Log.Warn(fmt.Sprintf("nothing is evicted from '%s': what is pinned cannot be read: %v", c.o.Dir, err))
			continue
		}
		all[c] = set
	}
	return all
}
