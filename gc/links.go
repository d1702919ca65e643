package gc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// maxRootDepth bounds how deep directories of roots are followed. Links are not
// followed into, so it only meets trees that somebody made to annoy.
const maxRootDepth = 64

// LinkRoots finds the roots under the directories gcroots and profiles of a
// state directory: symlinks to store objects, symlinks to such symlinks, and
// files named after a store path. It removes links in gcroots/auto that lead
// nowhere. The paths need not be valid.
func LinkRoots(ctx context.Context, stateDir string, dir storepath.Dir) (store.Roots, error) {
	s := linkScan{ctx: ctx, dir: dir, auto: filepath.Join(stateDir, "gcroots", "auto") + "/", roots: store.Roots{}}
	for _, top := range []string{"gcroots", "profiles"} {
		if err := s.walk(filepath.Join(stateDir, top), 0); err != nil {
			return nil, fmt.Errorf("finding garbage collector roots: %w", err)
		}
	}
	return s.roots, nil
}

type linkScan struct {
	ctx   context.Context
	dir   storepath.Dir
	auto  string
	roots store.Roots
}

func (s *linkScan) walk(path string, depth int) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	st, err := os.Lstat(path)
	switch {
	case err != nil:
		return s.passOver(path, err)
	case st.Mode().IsDir() && depth < maxRootDepth:
		entries, err := os.ReadDir(path)
		if err != nil {
			return s.passOver(path, err)
		}
		for _, e := range entries {
			if err := s.walk(filepath.Join(path, e.Name()), depth+1); err != nil {
				return err
			}
		}
	case st.Mode().Type() == fs.ModeSymlink:
		return s.link(path)
	case st.Mode().IsRegular():
		if p, err := storepath.ParseBase(filepath.Base(path)); err == nil {
			s.roots[p] = append(s.roots[p], path)
		}
	}
	return nil
}

// link takes a symlink into the store, or one step away from it.
func (s *linkScan) link(path string) error {
	target, err := os.Readlink(path)
	if err != nil {
		return s.passOver(path, err)
	}
	if s.found(path, target) {
		return nil
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(path), target)
	}
	second, err := os.Readlink(target)
	switch {
	case isNowhere(err):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if strings.HasPrefix(path, s.auto) {
			activity.Logf(s.ctx, activity.Info, "removing stale link from '%s' to '%s'", path, target)
			_ = os.Remove(path) // the next collection tries again
		}
		return nil
	case errors.Is(err, fs.ErrInvalid) || isNotLink(err):
		return nil // a file or directory that is no link roots nothing
	case err != nil:
		return s.passOver(target, err)
	}
	s.found(target, second)
	return nil
}

func (s *linkScan) found(link, target string) bool {
	p, _, err := s.dir.Split(target)
	if err != nil {
		return strings.HasPrefix(target, string(s.dir)+"/")
	}
	s.roots[p] = append(s.roots[p], link)
	return true
}

// passOver is for what is not there, and for what may not be read, as Nix passes over that: a
// user's directory that root may not enter, on NFS say, would keep everybody's garbage alive. The
// operator is warned, as what such a root keeps may go.
// Anything else stops the collection: not knowing a root is no licence to delete.
func (s *linkScan) passOver(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, fs.ErrPermission):
		activity.Warnf(s.ctx, "cannot read potential root '%s', so that what nothing else keeps counts as garbage", path)
	case isNotDir(err), isNowhere(err):
		activity.Logf(s.ctx, activity.Info, "cannot read potential root '%s'", path)
	default:
		return err
	}
	return nil
}
