package lazy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/storepath"
)

// profilesDir has the profiles, each named as its root.
const (
	profilesDir  = "profiles"
	profilesLock = "profiles.lock"
)

// Profile is that of a root; nil if there is none.
func (c *Cache) Profile(root storepath.Path) (*Profile, error) {
	name := c.at(profilesDir, root.Base())
	text, err := readSmall(name, MaxProfile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // see above
	}
	if err != nil {
		return nil, err
	}
	p, err := ParseProfile(text)
	if err == nil && p.Root != root {
		err = fmt.Errorf("%w: it is that of '%s'", ErrProfile, p.Root)
	}
	if err != nil {
		return nil, fmt.Errorf("'%s': %w", name, err)
	}
	return p, nil
}

// Profiles lists the roots that have one, sorted.
func (c *Cache) Profiles(ctx context.Context) (roots []storepath.Path, err error) {
	err = eachName(ctx, c.at(profilesDir), func(name string) {
		if p, err := storepath.ParseBase(name); err == nil {
			roots = append(roots, p)
		}
	})
	slices.SortFunc(roots, storepath.Compare)
	return roots, err
}

// maxProfiles is how many are kept: when there are more, the one that was changed longest ago goes.
const maxProfiles = 4096

// AddProfile adds to what is known of a root's start-up, by whichever process that was learnt. What is known
// already keeps its place.
func (c *Cache) AddProfile(ctx context.Context, p *Profile) error {
	lock, err := flock.Open(c.at(profilesLock))
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := lock.Lock(ctx, flock.Exclusive, nil); err != nil {
		return err
	}
	known, err := c.Profile(p.Root)
	if err != nil && !errors.Is(err, ErrProfile) {
		return err
	}
	if known == nil { // or damaged
		known = &Profile{Root: p.Root}
		c.makeRoomForProfile(ctx)
	}
	if !known.merge(p) {
		return nil
	}
	return replaceFile(c.at(profilesDir, p.Root.Base()), known.Text())
}

// makeRoomForProfile removes one if there are too many.
func (c *Cache) makeRoomForProfile(ctx context.Context) {
	n, name, oldest := 0, "", int64(0)
	_ = eachName(ctx, c.at(profilesDir), func(some string) {
		n++
		fi, err := os.Lstat(c.at(profilesDir, some))
		if err == nil && (name == "" || fi.ModTime().UnixNano() < oldest) {
			name, oldest = some, fi.ModTime().UnixNano()
		}
	})
	if n >= maxProfiles {
		_ = os.Remove(c.at(profilesDir, name))
	}
}

// RemoveProfile forgets one. That there is none is no error.
func (c *Cache) RemoveProfile(root storepath.Path) error {
	return ignoreMissing(os.Remove(c.at(profilesDir, root.Base())))
}
