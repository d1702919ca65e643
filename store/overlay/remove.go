package overlay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// CollectGarbage collects the upper's garbage, see [store.Collector]. Lower
// objects are never deleted, and count nothing.
func (s *Store) CollectGarbage(ctx context.Context, o store.GCOptions) (*store.GCResult, error) {
	if o.Action == store.DeleteDead || o.Action == store.DeleteSpecific {
		defer s.noteRemoving(ctx)()
	}
	res, err := s.Store.CollectGarbage(ctx, o)
	return res, errors.Join(err, s.refresh(context.WithoutCancel(ctx)))
}

// remove deletes entries of the merged directory from the upper layer.
func (s *Store) remove(ctx context.Context, names []string) (uint64, error) {
	if s.opts.RemountHook != "" || s.opts.NoCheckMount {
		return s.removeForHook(ctx, names)
	}
	var present []string
	for _, n := range names {
		if s.inUpper(n) {
			present = append(present, n)
		}
	}
	if len(present) == 0 {
		return 0, nil
	}
	r, err := overlayfs.NewRemover(s.Store.RealDir(), s.opts.UpperLayer)
	if err != nil {
		return 0, err
	}
	defer func() { _ = r.Close() }()
	removals, err := r.Remove(ctx, present...)
	freed := uint64(0)
	for _, m := range removals {
		freed += uint64(m.Bytes) //nolint:gosec // a count of bytes
		if m.LowerShows {
			s.stale.Store(true)
		}
		switch {
		case errors.Is(m.Err, overlayfs.ErrInUse):
			activity.Warnf(ctx, "leaving '%s' in the upper layer: %v", m.Name, m.Err)
		case m.Err != nil && !errors.Is(m.Err, overlayfs.ErrNotInUpper):
			err = errors.Join(err, m.Err)
		}
	}
	return freed, err
}

// removeForHook does as upstream does when the mount is somebody else's: what a lower
// has too is deleted in the upper directly.
func (s *Store) removeForHook(ctx context.Context, names []string) (freed uint64, err error) {
	for _, n := range names {
		if !s.inUpper(n) {
			continue
		}
		place := filepath.Join(s.Store.RealDir(), n)
		if s.lowers.exists(n) {
			place = s.upperPath(n)
			s.stale.Store(true)
		}
		f, rmErr := nar.RemoveTree(ctx, place)
		freed += uint64(f) //nolint:gosec // a count of bytes
		if rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}
	return freed, err
}

// refresh makes lowers' objects show whose upper copies are gone.
func (s *Store) refresh(ctx context.Context) error {
	if !s.stale.Swap(false) {
		return nil
	}
	switch {
	case s.opts.RemountHook == "" && !s.opts.NoCheckMount:
		return overlayfs.Refresh(ctx, s.Store.RealDir())
	case s.opts.RemountHook == "":
		activity.Warnf(ctx, "'%s' needs remounting, set remount-hook to do this automatically", s.Store.RealDir())
		return nil
	}
	var out bytes.Buffer
	hook := exec.CommandContext(ctx, s.opts.RemountHook, s.Store.RealDir())
	hook.Stdout, hook.Stderr, hook.Dir = &out, &out, "/"
	if err := hook.Run(); err != nil {
		return fmt.Errorf("remount hook '%s': %w: %s", s.opts.RemountHook, err, bytes.TrimSpace(out.Bytes()))
	}
	if text := bytes.TrimSpace(out.Bytes()); len(text) > 0 {
		activity.Logf(ctx, activity.Info, "%s", text)
	}
	return nil
}

// exists tells whether a lower's directory has the entry, valid or not: that is
// what the kernel would show.
func (ls lowers) exists(name string) bool {
	for _, l := range ls {
		if _, err := os.Lstat(filepath.Join(l.dir, name)); err == nil {
			return true
		}
	}
	return false
}

// optimiseBatch is how many paths are compared with the lowers at a time.
const optimiseBatch = 1000

// Optimise drops objects from the upper layer that a lower has too, with the same
// contents, whose rows stay, and makes equal files of the others one.
func (s *Store) Optimise(ctx context.Context) error {
	ctx, act := activity.Start(ctx, activity.Info, activity.OptimiseStore, "optimising the upper layer")
	defer act.Stop()
	defer s.noteRemoving(ctx)()
	var paths []storepath.Path
	for p, err := range s.Store.AllPaths(ctx) {
		if err != nil {
			return err
		}
		paths = append(paths, p)
	}
	var err error
	for done := 0; done < len(paths) && err == nil; done += optimiseBatch {
		act.Progress(uint64(done), uint64(len(paths)), 0, 0)
		err = s.dropDuplicates(ctx, paths[done:min(done+optimiseBatch, len(paths))])
	}
	if err = errors.Join(err, s.refresh(context.WithoutCancel(ctx))); err != nil {
		return err
	}
	return s.Store.Optimise(ctx)
}

func (s *Store) dropDuplicates(ctx context.Context, paths []storepath.Path) error {
	below, err := s.lowers.PathInfos(ctx, paths)
	if err != nil {
		return err
	}
	here, err := s.Store.DB().PathInfos(ctx, paths)
	if err != nil {
		return err
	}
	var names []string
	for i, info := range below {
		switch {
		case info == nil || here[i] == nil || !s.inUpper(paths[i].Base()):
		case info.NarHash != here[i].NarHash:
			activity.Warnf(ctx, "path '%s' is in the lower store with other contents; its copy in the upper layer stays", s.Dir().Print(paths[i]))
		default:
			names = append(names, paths[i].Base())
		}
	}
	_, err = s.remove(ctx, names)
	return err
}
