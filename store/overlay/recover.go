package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/overlayfs"
)

// removingPrefix begins the names of files in the state directory, each of which
// says that a process takes objects out of the upper layer: it has the file locked.
// One that nobody has locked was left by a crash. Then an object may be hidden by
// the whiteout of a removal that went half-way, whatever a lower has of it.
const removingPrefix = "strata-removing-"

// lastRemoving numbers the files of this process.
var lastRemoving atomic.Uint64

// noteRemoving writes such a file. Where none can be written, on a full disk say,
// making room is more important. end is called after the last refresh.
func (s *Store) noteRemoving(ctx context.Context) (end func()) {
	name := removingPrefix + strconv.Itoa(os.Getpid()) + "." + strconv.FormatUint(lastRemoving.Add(1), 10)
	lock, err := flock.OpenLive(ctx, filepath.Join(s.StateDir(), name), nil)
	if err != nil {
		return func() {}
	}
	return func() {
		_ = os.Remove(lock.File().Name()) // else the next opening looks in vain
		_ = lock.Close()
	}
}

// recover finishes what killed processes have left half-done, if there is any.
func (s *Store) recover(ctx context.Context) {
	left, err := s.crashedRemovals()
	if err == nil && len(left) > 0 {
		if err = s.showHidden(ctx); err == nil {
			for _, l := range left {
				err = errors.Join(err, os.Remove(l.File().Name()))
			}
		}
	}
	for _, l := range left {
		_ = l.Close() // nothing was written to it
	}
	if err != nil {
		activity.Warnf(ctx, "removals from the upper layer that were interrupted: %v", err)
	}
}

// crashedRemovals gives the files of processes that are gone, locked.
func (s *Store) crashedRemovals() ([]*flock.Lock, error) {
	entries, err := os.ReadDir(s.StateDir())
	if err != nil {
		return nil, err
	}
	var out []*flock.Lock
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), removingPrefix) {
			continue
		}
		lock, err := flock.Open(filepath.Join(s.StateDir(), e.Name())) // made anew if it has just gone, which does no harm
		if err != nil {
			return out, err
		}
		if free, err := lock.Try(flock.Exclusive); !free || err != nil {
			_ = lock.Close()
			continue // its process is at work
		}
		out = append(out, lock)
	}
	return out, nil
}

// showHidden takes every whiteout out of the upper layer, and what removals had put
// aside.
func (s *Store) showHidden(ctx context.Context) error {
	hidden, err := overlayfs.Whiteouts(ctx, s.opts.UpperLayer)
	if err != nil {
		return err
	}
	for _, name := range hidden {
		if err := s.dropWhiteout(name); err != nil {
			return err
		}
	}
	r, err := overlayfs.NewRemover(s.Store.RealDir(), s.opts.UpperLayer)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	if _, err := r.PurgeLeftovers(ctx); err != nil {
		return err
	}
	return r.Refresh(ctx)
}

// dropWhiteout lets the lower's object of a name show after the next refresh.
func (s *Store) dropWhiteout(name string) error {
	err := overlayfs.RemoveWhiteout(s.upperPath(name))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, overlayfs.ErrNotWhiteout) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("a whiteout hides '%s': %w", name, err)
	}
	return nil
}
