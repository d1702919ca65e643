package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/builder/output"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

var _ output.Installer = (*Store)(nil)

// TempDir makes a private directory, see [output.Installer].
func (s *Store) TempDir(ctx context.Context) (dir string, remove func(), err error) {
	if err := s.writable(); err != nil {
		return "", nil, err
	}
	t, err := s.newTempDir(ctx)
	if err != nil {
		return "", nil, err
	}
	return t.path, func() { t.remove(ctx) }, nil
}

// LockPath keeps others from making p, see [output.Installer].
func (s *Store) LockPath(ctx context.Context, p storepath.Path, wait bool) (unlocked func(), err error) {
	lock, err := s.tryLockPath(p)
	if lock == nil && err == nil && wait {
		lock, err = s.lockPath(ctx, p)
	}
	if lock == nil || err != nil {
		return nil, err
	}
	return func() { unlock(lock) }, nil
}

// Install moves an object to its place, see [output.Installer].
func (s *Store) Install(ctx context.Context, from string, p storepath.Path) error {
	if err := s.writable(); err != nil {
		return err
	}
	if s.opts.FsyncStorePaths {
		if err := nar.SyncTree(from); err != nil {
			return err
		}
	}
	return s.install(ctx, from, p)
}

// Withdraw takes an object away, see [output.Installer].
func (s *Store) Withdraw(ctx context.Context, p storepath.Path) {
	s.withdraw(ctx, []*store.PathInfo{{Path: p}})
}

// install moves an object to its place. Its path is locked, and its contents are on
// disk if they have to be.
func (s *Store) install(ctx context.Context, from string, p storepath.Path) error {
	if to := s.realPath(p); from != to {
		if err := s.replaceTree(ctx, from, to); err != nil {
			return fmt.Errorf("moving path '%s' into place: %w", s.dir.Print(p), err)
		}
	}
	if s.opts.AutoOptimise {
		if err := s.optimiseNew(ctx, p); err != nil {
			return err
		}
	}
	if s.opts.FsyncStorePaths {
		return syncDir(s.real)
	}
	return nil
}

// replaceTree moves an object to where another may lie: one that is not valid, of a
// process that was killed, or one that is damaged. Somebody may be using that all the
// same, so there is no moment without any, if the file system can help it.
func (s *Store) replaceTree(ctx context.Context, from, to string) error {
	// Most often there is nothing, and one system call does it.
	if unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE) == nil {
		return nil
	}
	if _, err := os.Lstat(to); err == nil {
		if exchangeTrees(from, to) == nil {
			_, err := removeTree(ctx, from)
			return err
		}
		if _, err := removeTree(ctx, to); err != nil {
			return fmt.Errorf("making room: %w", err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := moveTree(from, to)
	if errors.Is(err, unix.EXDEV) {
		// From another file system, or a directory on an OverlayFS that a lower has, too.
		return s.carryTree(ctx, from, to)
	}
	return err
}

// carryTree moves by copying.
func (s *Store) carryTree(ctx context.Context, from, to string) error {
	tmp, err := s.newTempDir(ctx)
	if err != nil {
		return err
	}
	defer tmp.remove(ctx)
	place := filepath.Join(tmp.path, "copy")
	r, w := io.Pipe()
	go func() { w.CloseWithError(nar.Dump(ctx, w, from)) }()
	_, err = nar.Restore(ctx, r, place, nar.RestoreOptions{Sync: s.opts.FsyncStorePaths})
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if err := moveTree(place, to); err != nil {
		return err
	}
	_, err = removeTree(ctx, from)
	return err
}

// moveTree renames. To move a directory one must be able to write to it, unless
// one is root; so its mode is opened for that moment.
func moveTree(from, to string) error {
	err := os.Rename(from, to)
	if !errors.Is(err, fs.ErrPermission) || !openDirectory(from) {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return closeDirectory(to)
}

// exchangeTrees lets two objects change places, see moveTree.
func exchangeTrees(a, b string) error {
	exchange := func() error { return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE) }
	err := exchange()
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	opened := openDirectory(a)
	if opened = openDirectory(b) || opened; !opened {
		return err
	}
	return errors.Join(exchange(), closeDirectory(a), closeDirectory(b))
}

// storeDirMode is the mode of directories in a store object.
const storeDirMode = 0o555

// openDirectory makes a directory writable for its owner, and tells whether it is a
// directory and that worked.
func openDirectory(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.IsDir() && os.Chmod(path, storeDirMode|0o200) == nil
}

// closeDirectory gives a directory the mode that it has in a store; anything else it
// leaves alone.
func closeDirectory(path string) error {
	st, err := os.Lstat(path)
	if err != nil || !st.IsDir() {
		return err
	}
	return os.Chmod(path, storeDirMode)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}

// withdraw takes objects away that could not be registered, unless they are valid
// all the same.
func (s *Store) withdraw(ctx context.Context, infos []*store.PathInfo) {
	ctx = context.WithoutCancel(ctx)
	for _, info := range infos {
		if ok, err := s.isValid(ctx, info.Path); ok || err != nil {
			continue // valid, or could not tell: leave it
		}
		_, _ = removeTree(ctx, s.realPath(info.Path)) // a stray is garbage
	}
}
