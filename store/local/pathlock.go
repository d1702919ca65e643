package local

import (
	"context"
	"fmt"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/storepath"
)

// lockPath keeps other processes, Nix's too, from making the same object: it
// locks <path>.lock. The caller unlocks.
func (s *Store) lockPath(ctx context.Context, p storepath.Path) (*flock.Lock, error) {
	l, err := flock.OpenLive(ctx, s.realPath(p)+".lock", func() {
		activity.Logf(ctx, activity.Info, "waiting for locks or build slots...")
	})
	if err != nil {
		return nil, fmt.Errorf("locking path '%s': %w", s.dir.Print(p), err)
	}
	return l, nil
}

// tryLockPath is lockPath without waiting: there is no lock if somebody else has it.
func (s *Store) tryLockPath(p storepath.Path) (*flock.Lock, error) {
	l, err := flock.Open(s.realPath(p) + ".lock")
	if err != nil {
		return nil, fmt.Errorf("locking path '%s': %w", s.dir.Print(p), err)
	}
	ok, err := l.Try(flock.Exclusive)
	if err == nil && ok {
		if ok, err = l.Marked(); err == nil && !ok {
			return l, nil
		}
	}
	_ = l.Close()
	return nil, err
}

// unlock also takes the lock file away. Without a lock it does nothing.
func unlock(l *flock.Lock) {
	if l == nil {
		return
	}
	l.Delete()
	_ = l.Close()
}
