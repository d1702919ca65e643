package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/overlay"
)

// openReadOnly opens a stack that is down and whose upper is on a read-only file system. There is no
// place to mount it at, and nothing to be locked but a lock that is there, so the layers are
// compared as they lie.
func (c *CheckUp) openReadOnly(ctx context.Context, cfg Config, parts Parts) (err error) {
	var undo []func() error
	end := func() (err error) {
		for _, f := range slices.Backward(undo) {
			err = errors.Join(err, f())
		}
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, end())
		}
	}()
	lock, err := lockReadOnly(ctx, cfg.Upper.Dir)
	if err != nil {
		return err
	}
	if lock != nil {
		undo = append(undo, lock.Close)
	}
	mounts, err := os.MkdirTemp("", "strata-check-")
	if err != nil {
		return err
	}
	undo = append(undo, func() error { return RemoveMountPoints(mounts) })
	opened, err := OpenLowers(ctx, cfg.Lowers, OpenLowersOptions{StoreDir: cfg.StoreDir, Mounts: mounts, Open: parts.Open})
	if err != nil {
		return err
	}
	lowers, stores := make([]RunLower, len(opened)), make([]store.Store, len(opened))
	for i, l := range opened {
		given := &cfg.Lowers[i]
		lowers[i] = RunLower{Name: l.Name, Kind: l.Kind, Given: given.String(), Real: given.Real, State: given.State, Dir: l.Dir, URI: l.Store.URI()}
		stores[i], l.Store = l.Store, nil // closed by who opens the upper over it
		undo = append(undo, func() error { return l.Close(ctx) })
	}
	o := parts.Upper
	o.Dir, o.Root, o.Real, o.State, o.Log, o.ReadOnly = cfg.StoreDir, "", cfg.Upper.Layer, cfg.Upper.State, cfg.Upper.Log, true
	st, err := overlay.Open(ctx, overlay.Options{Upper: o, UpperLayer: cfg.Upper.Layer, NoCheckMount: true}, stores)
	if err != nil {
		return err
	}
	undo = append(undo, st.Close)
	c.take(st, cfg.Upper.Dir, lowers, stores)
	c.close, c.readOnly = end, fmt.Errorf("upper '%s' is on a read-only file system, so that nothing can be repaired: %w", cfg.Upper.Dir, store.ErrReadOnly)
	return nil
}

// lockReadOnly keeps others from bringing up a stack with an upper to which nothing can be written, as
// far as that is possible: by the lock that is there, or else not at all.
func lockReadOnly(ctx context.Context, dir string) (*flock.Lock, error) {
	lock, err := flock.OpenThere(filepath.Join(dir, lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		lock, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	if lock != nil {
		if err := lockNow(lock, flock.Shared, dir); err != nil {
			return nil, errors.Join(err, lock.Close())
		}
	}
	activity.Warnf(ctx, "upper '%s' is on a read-only file system: its database cannot be locked, and what is changed from elsewhere meanwhile may look like damage", dir)
	return lock, nil
}
