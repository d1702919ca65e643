package builder

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/flock"
)

// lockPause is how long a lock is left alone, at most, that another process has.
const lockPause = 100 * time.Millisecond

// locks are the files of all outputs of a derivation, locked.
type locks []*flock.Lock

// lockOutputs locks all files or waits. Nobody who waits here has locked a part of
// them, or has a slot.
func lockOutputs(ctx context.Context, files []string, slot *slot, t *turn) (locks, error) {
	ls, err := tryLocks(files)
	if ls != nil || err != nil {
		return ls, err
	}
	slot.release()
	t.pass()
	_, act := activity.Start(ctx, activity.Warn, activity.BuildWaiting, "waiting for lock on '"+strings.Join(files, "', '")+"'")
	defer act.Stop()
	for pause := time.Millisecond; ; pause = min(2*pause, lockPause) {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
		ls, err := tryLocks(files)
		if err != nil {
			return nil, err
		}
		if ls == nil {
			continue
		}
		if slot.try() {
			return ls, nil
		}
		ls.release()
		if err := slot.take(ctx); err != nil {
			return nil, err
		}
		if ls, err = tryLocks(files); ls != nil || err != nil {
			return ls, err
		}
		slot.release()
	}
}

// tryLocks locks all files, or none and gives nil.
func tryLocks(files []string) (locks, error) {
	ls := make(locks, 0, len(files))
	for _, f := range files {
		l, err := tryLock(f)
		if l == nil {
			ls.release()
			return nil, err
		}
		ls = append(ls, l)
	}
	return ls, nil
}

// tryLock gives nil if the lock is not to be had.
func tryLock(file string) (*flock.Lock, error) {
	for {
		l, err := flock.Open(file)
		if err != nil {
			return nil, err
		}
		free, err := l.Try(flock.Exclusive)
		if err != nil || !free {
			_ = l.Close()
			return nil, err
		}
		stale, err := l.Marked()
		if err == nil && !stale {
			return l, nil
		}
		_ = l.Close()
		if err != nil {
			return nil, fmt.Errorf("looking at the lock %s: %w", file, err)
		}
	}
}

// release gives the locks up, and takes the files away: whoever waits for one
// sees by its mark that it is worth nothing any more.
func (ls locks) release() {
	for _, l := range ls {
		l.Delete()
		_ = l.Close()
	}
}
