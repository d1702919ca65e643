package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// lastRoots numbers the files of temporary roots of this process.
var lastRoots atomic.Uint64

// NewTempRoots gives out temporary roots, see [store.TempRooter]. A read-only store
// loses nothing, so there they are nothing.
func (s *Store) NewTempRoots() store.TempRoots {
	if s.opts.ReadOnly {
		return noRoots{}
	}
	// Nix reads the number up to the first other character as the process.
	name := strconv.Itoa(os.Getpid()) + "." + strconv.FormatUint(lastRoots.Add(1), 10)
	return &tempRoots{s: s, file: gc.NewTempRootsFile(s.state, name, s.dir)}
}

type noRoots struct{}

func (noRoots) Add(context.Context, []storepath.Path) error { return nil }
func (noRoots) Close() error                                { return nil }

// tempRoots lets several goroutines use one file.
type tempRoots struct {
	s    *Store
	mu   sync.Mutex
	file *gc.TempRootsFile
}

func (t *tempRoots) Add(ctx context.Context, paths []storepath.Path) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.file.Add(ctx, paths)
}

func (t *tempRoots) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.file.Close()
}

// AddIndirectRoot notes a root, see [store.RootKeeper]. The link under
// gcroots/auto is named by the SHA-1 of the path, as in Nix.
func (s *Store) AddIndirectRoot(_ context.Context, link string) error {
	if err := s.writable(); err != nil {
		return err
	}
	if !filepath.IsAbs(link) {
		return fmt.Errorf("adding indirect root: '%s' is not an absolute path", link)
	}
	link = filepath.Clean(link)
	name := nixhash.Of(nixhash.SHA1, link).Digest(nixhash.Nix32)
	if err := replaceLink(link, filepath.Join(s.state, "gcroots", "auto", name)); err != nil {
		return fmt.Errorf("adding indirect root '%s': %w", link, err)
	}
	return nil
}

// AddPermRoot makes a root, see [store.RootKeeper].
func (s *Store) AddPermRoot(ctx context.Context, p storepath.Path, link string) (string, error) {
	if err := s.writable(); err != nil {
		return "", err
	}
	if !filepath.IsAbs(link) {
		return "", fmt.Errorf("adding root: '%s' is not an absolute path", link)
	}
	link = filepath.Clean(link)
	if _, _, err := s.dir.Split(link); err == nil {
		return "", fmt.Errorf("creating a garbage collector root (%s) in the Nix store is forbidden (are you running nix-build inside the store?)", link)
	}
	if st, err := os.Lstat(link); err == nil && st.Mode().Type() != fs.ModeSymlink {
		return "", fmt.Errorf("cannot create symlink '%s'; already exists", link)
	}
	if err := replaceLink(s.dir.Print(p), link); err != nil {
		return "", fmt.Errorf("adding root '%s': %w", link, err)
	}
	return link, s.AddIndirectRoot(ctx, link)
}

// replaceLink makes link a symlink to target in one step.
func replaceLink(target, link string) error {
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	for n := 0; ; n++ {
		tmp := fmt.Sprintf("%s.tmp-%d-%d", link, os.Getpid(), n)
		err := os.Symlink(target, tmp)
		if errors.Is(err, fs.ErrExist) && n < 100 {
			continue
		}
		if err == nil {
			if err = os.Rename(tmp, link); err != nil {
				_ = os.Remove(tmp)
			}
		}
		return err
	}
}
