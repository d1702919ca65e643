package lazy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/strata-nix/strata/storepath"
)

// List gives the objects that are here, in no particular order.
func (c *Cache) List() ([]storepath.Path, error) {
	entries, err := readNames(c.Objects())
	if err != nil {
		return nil, fmt.Errorf("cache of lazy objects: %w", err)
	}
	all := make([]storepath.Path, 0, len(entries))
	for _, name := range entries {
		if p, err := storepath.ParseBase(name); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// fromHashPart finds an object that is here; zero if there is none.
func (c *Cache) fromHashPart(hashPart string) storepath.Path {
	names, err := readNames(c.Objects())
	if err != nil {
		return storepath.Path{}
	}
	for _, name := range names {
		if strings.HasPrefix(name, hashPart+"-") {
			if p, err := storepath.ParseBase(name); err == nil {
				return p
			}
		}
	}
	return storepath.Path{}
}

// The time of last use is that of the info's file, to within this grain: to write it
// costs.
const useGrain = time.Minute

// maxUsed bounds the objects whose use is known to have been noted.
const maxUsed = 100_000

// touch notes that an object is used.
func (c *Cache) touch(p storepath.Path) {
	now := time.Now()
	c.mu.Lock()
	before, ok := c.used[p]
	if ok && now.Sub(before) < useGrain {
		c.mu.Unlock()
		return
	}
	c.used[p] = now
	if len(c.used) > maxUsed {
		clear(c.used) // at worst some are noted again
	}
	c.mu.Unlock()
	err := os.Chtimes(c.at(infoDir, p.Base()), time.Time{}, now)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.o.Log.Debug(fmt.Sprintf("the use of an object cannot be noted: %v", err))
	}
}
