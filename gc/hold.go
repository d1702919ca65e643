package gc

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/storepath"
)

// Hold is Add for who only reads, and perhaps to save something from a full disk: where that has no
// room for roots, no collection can begin until Close. It waits for the end of one that is at work.
func (t *TempRootsFile) Hold(ctx context.Context, paths []storepath.Path) error {
	if t.held != nil {
		return nil
	}
	err := t.Add(ctx, paths)
	if !isFull(err) {
		return err
	}
	lock, err := flock.Open(filepath.Join(t.stateDir, "gc.lock"))
	if err != nil {
		return fmt.Errorf("keeping collections from beginning: %w", err)
	}
	err = lock.Lock(ctx, flock.Shared, func() {
		activity.Logf(ctx, activity.Info, "waiting for a garbage collection to end, as the disk is too full for temporary roots...")
	})
	if err != nil {
		_ = lock.Close()
		return fmt.Errorf("keeping collections from beginning: %w", err)
	}
	t.held = lock
	return nil
}

// isFull tells that a disk, or somebody's share of it, is full.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
