package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/optimise"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// makePlaces makes the directories that Nix expects of a store.
func (s *Store) makePlaces() error {
	if !s.opts.AllowSymlinkedStore {
		if err := refuseSymlinks(s.real); err != nil {
			return err
		}
	}
	for _, d := range []string{
		filepath.Join(s.real, optimise.LinksName),
		filepath.Join(s.state, "db"),
		filepath.Join(s.state, "temproots"),
		filepath.Join(s.state, "gcroots", "per-user"),
		filepath.Join(s.state, "profiles", "per-user"),
	} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return s.giveToBuilders()
}

// prepare makes the places anew if somebody has deleted them.
func (s *Store) prepare() error {
	for _, d := range []string{filepath.Join(s.real, optimise.LinksName), filepath.Join(s.state, "temproots")} {
		if _, err := os.Lstat(d); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return s.makePlaces()
		}
	}
	return nil
}

// refuseSymlinks refuses a store directory that is reached by way of symlinks:
// objects would have other names for those who resolve them.
func refuseSymlinks(dir string) error {
	for p := dir; p != "/" && p != "."; p = filepath.Dir(p) {
		st, err := os.Lstat(p)
		if err == nil && st.Mode().Type() == fs.ModeSymlink {
			return fmt.Errorf("the path '%s' is a symlink; this is not allowed for the Nix store and its parent directories", p)
		}
	}
	return nil
}

// giveToBuilders lets the build users of a multi-user installation into the store
// directory.
func (s *Store) giveToBuilders() error {
	if s.opts.BuildUsersGroup == "" || os.Geteuid() != 0 {
		return nil
	}
	g, err := user.LookupGroup(s.opts.BuildUsersGroup)
	if err != nil {
		return nil //nolint:nilerr // the one who builds complains; storing works
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return err
	}
	if err := os.Chown(s.real, 0, gid); err != nil {
		return err
	}
	return os.Chmod(s.real, 0o775|fs.ModeSticky)
}

// tempPath is the directory, inside of the store directory, in which objects are unpacked.
// While anybody is at work there it has a temporary root.
func (s *Store) tempPath() storepath.Path {
	name := gc.TempName
	if s.layer.Lower != nil {
		name = gc.UpperTempName(s.layer.Deletable)
	}
	p, err := storepath.ParseBase(name)
	if err != nil {
		panic(err)
	}
	return p
}

// tempDir is a private directory for one operation, under tempPath. It goes with whatever else
// is there when nobody has that locked.
type tempDir struct {
	path    string
	lock    *flock.Lock
	root    *tempRoot
	scratch *nar.Scratch // to unpack in
}

// tempRoot is the temporary root of tempPath, which all operations of a store share.
type tempRoot struct {
	mu    sync.Mutex
	users int
	roots store.TempRoots // nil: nobody is at work
}

func (r *tempRoot) hold(ctx context.Context, s *Store) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.roots == nil {
		roots := s.NewTempRoots()
		if err := roots.Add(ctx, []storepath.Path{s.tempPath()}); err != nil {
			return errors.Join(err, roots.Close())
		}
		r.roots = roots
	}
	r.users++
	return nil
}

func (r *tempRoot) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users--; r.users == 0 {
		_ = r.roots.Close() // what it kept is not wanted any more
		r.roots = nil
	}
}

// newTempDir makes a private directory. The store directory is held open until
// its remove.
func (s *Store) newTempDir(ctx context.Context) (*tempDir, error) {
	if err := s.tempRoot.hold(ctx, s); err != nil {
		return nil, fmt.Errorf("making a temporary directory: %w", err)
	}
	t, err := s.makeTempDir(ctx)
	if err != nil {
		s.tempRoot.release()
		return nil, fmt.Errorf("making a temporary directory: %w", err)
	}
	return t, nil
}

func (s *Store) makeTempDir(ctx context.Context) (*tempDir, error) {
	top := s.realPath(s.tempPath())
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := os.Mkdir(top, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		lock, err := flock.OpenDir(top)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another operation ended and took it away
		}
		if err != nil {
			return nil, err
		}
		if err := lock.Lock(ctx, flock.Shared, nil); err != nil {
			_ = lock.Close()
			return nil, err
		}
		if same, err := lock.InPlace(); err != nil || !same {
			_ = lock.Close()
			if err != nil {
				return nil, err
			}
			continue // taken away before we had the lock
		}
		path, err := os.MkdirTemp(top, strconv.Itoa(os.Getpid())+"-")
		if err == nil {
			t := &tempDir{path: path, lock: lock, root: s.tempRoot}
			if t.scratch, err = nar.OpenScratch(path, nar.RestoreOptions{Sync: s.opts.FsyncStorePaths}); err == nil {
				return t, nil
			}
			_ = os.Remove(path) // or it goes with the others
		}
		_ = lock.Close()
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

// remove deletes the directory with all that is in it.
func (t *tempDir) remove(ctx context.Context) {
	_ = t.scratch.Close() // nothing was written through it
	if _, err := removeTree(context.WithoutCancel(ctx), t.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		activity.Warnf(ctx, "leaving temporary files behind: %v", err)
	}
	_ = t.lock.Close()
	_ = os.Remove(filepath.Dir(t.path)) // if it was the last
	t.root.release()
}

// clearLeftovers removes what operations left that were killed. It looks at one
// directory, whatever the size of the store.
func (s *Store) clearLeftovers() {
	top := s.realPath(s.tempPath())
	lock, err := flock.OpenDir(top)
	if err != nil {
		return
	}
	defer func() { _ = lock.Close() }()
	if ok, err := lock.Try(flock.Exclusive); ok && err == nil {
		_, _ = removeTree(context.Background(), top) // the next opening tries again
	}
}

// removeTree deletes a tree whatever its modes, and counts what left the disk.
func removeTree(ctx context.Context, path string) (uint64, error) {
	n, err := nar.RemoveTree(ctx, path)
	return uint64(n), err //nolint:gosec // a count of bytes
}
