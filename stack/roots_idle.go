package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/unixsocket"
)

// collectionsOver returns when no garbage collection of the store with a state
// directory is running that began before it was called. It writes nothing: by Nix's
// protocol a collection holds gc.lock, and listens on a socket meanwhile, which who
// may not read the lock can see.
//
// Source: LocalStore::collectGarbage in src/libstore/gc.cc of Nix 2.34.
func collectionsOver(ctx context.Context, state string) error {
	told := false
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		busy, err := collecting(ctx, filepath.Join(state, "gc.lock"), filepath.Join(state, "gc-socket"))
		if err != nil {
			return fmt.Errorf("looking for a garbage collection of the lower store: %w", err)
		}
		if !busy {
			return nil
		}
		if !told {
			told = true
			activity.Logf(ctx, activity.Info, "waiting for a garbage collection of the lower store to end...")
		}
		if !sleep(ctx, pause) {
			return context.Cause(ctx)
		}
	}
}

func collecting(ctx context.Context, lock, socketDir string) (bool, error) {
	f, err := os.Open(lock)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, fs.ErrPermission):
		return listening(ctx, socketDir)
	case err != nil:
		return false, err
	}
	defer f.Close()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		switch {
		case err == nil:
			return false, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return true, nil
		case !errors.Is(err, unix.EINTR):
			return false, fmt.Errorf("locking '%s': %w", lock, err)
		}
	}
}

// listening tells whether a collection answers.
func listening(ctx context.Context, dir string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := unixsocket.Dial(ctx, filepath.Join(dir, "socket"))
	switch {
	case err == nil:
		return true, c.Close()
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	return false, err
}
