package merge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/nar"
)

// workspace is a directory beside a target, in which it is made. Whoever makes it has
// it locked; one that nobody has locked was left by somebody who was killed.
type workspace struct {
	target string
	lock   *flock.Lock
}

// newWorkspace makes one for a target, which must not exist unless it is to be replaced.
func newWorkspace(ctx context.Context, target string, replace bool) (*workspace, error) {
	target, err := filepath.Abs(target)
	if err != nil {
		return nil, err
	}
	w := &workspace{target: target}
	if err := w.open(ctx); err != nil {
		return nil, err
	}
	_, err = os.Lstat(target)
	if err == nil && !replace {
		err = fmt.Errorf("'%s' %w", target, ErrExists)
	} else if err == nil || errors.Is(err, fs.ErrNotExist) {
		return w, nil
	}
	return nil, errors.Join(err, w.close(ctx))
}

func (w *workspace) open(ctx context.Context) error {
	for {
		err := os.Mkdir(w.dir(), 0o700)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if w.lock, err = flock.OpenDir(w.dir()); errors.Is(err, fs.ErrNotExist) {
			continue // somebody else has just removed it
		}
		if err != nil {
			return err
		}
		usable, err := w.usable(ctx)
		if usable {
			return nil
		}
		if err := errors.Join(err, w.lock.Close()); err != nil {
			return err
		}
	}
}

// usable locks the directory and tells whether it is still there, and empty. What somebody
// left it removes.
func (w *workspace) usable(ctx context.Context) (bool, error) {
	ok, err := w.lock.Try(flock.Exclusive)
	if err != nil {
		return false, err
	}
	if !ok {
		return false, fmt.Errorf("'%s' %w", w.target, ErrBusy)
	}
	locked, err := w.lock.File().Stat()
	if err != nil {
		return false, err
	}
	if now, err := os.Lstat(w.dir()); err != nil || !os.SameFile(now, locked) {
		return false, nil //nolint:nilerr // it was removed before we had it locked
	}
	names, err := w.lock.File().Readdirnames(1)
	if len(names) == 0 {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	_, err = nar.RemoveTree(ctx, w.dir())
	return false, err
}

func (w *workspace) dir() string {
	return filepath.Join(filepath.Dir(w.target), "."+filepath.Base(w.target)+".strata-new")
}

func (w *workspace) path(name string) string { return filepath.Join(w.dir(), name) }

// close removes it, with what was not published.
func (w *workspace) close(ctx context.Context) error {
	_, err := nar.RemoveTree(context.WithoutCancel(ctx), w.dir())
	return errors.Join(err, w.lock.Close())
}

// publish gives something in the workspace the name of the target when it is on disk.
func (w *workspace) publish(name string, replace bool) error {
	crashpoint.Reached("merge: written")
	if err := unix.Syncfs(int(w.lock.File().Fd())); err != nil {
		return fmt.Errorf("sync '%s': %w", w.target, err)
	}
	crashpoint.Reached("merge: on disk")
	if err := w.rename(w.path(name), replace); err != nil {
		return err
	}
	crashpoint.Reached("merge: published")
	parent, err := os.Open(filepath.Dir(w.target))
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

func (w *workspace) rename(from string, replace bool) error {
	if replace {
		return os.Rename(from, w.target)
	}
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, w.target, unix.RENAME_NOREPLACE)
	switch {
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("'%s' %w", w.target, ErrExists)
	case errors.Is(err, unix.EINVAL): // this file system cannot tell
		if _, err := os.Lstat(w.target); err == nil {
			return fmt.Errorf("'%s' %w", w.target, ErrExists)
		}
		return os.Rename(from, w.target)
	case err != nil:
		return &os.LinkError{Op: "rename", Old: from, New: w.target, Err: err}
	}
	return nil
}
