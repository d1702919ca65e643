package overlay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/overlayfs"
)

// collecting brackets collections of the upper's garbage. Lower objects are never
// deleted, and count nothing; where they show instead, it is after one refresh for all.
func (s *Store) collecting(ctx context.Context) (done func() error) {
	end := s.noteRemoving(ctx)
	return func() error {
		defer end()
		if s.opts.Collected != nil {
			defer s.opts.Collected()
		}
		return s.refresh(context.WithoutCancel(ctx))
	}
}

// aside moves entries of the merged directory away, see gc.Parts. Of what is not in
// the upper layer it says that it is not there.
func (s *Store) aside(ctx context.Context, moves []gc.Move) {
	if s.opts.RemountHook != "" || s.opts.NoCheckMount {
		s.asideForHook(ctx, moves)
		return
	}
	list, which := make([]overlayfs.Aside, 0, len(moves)), make([]int, 0, len(moves))
	for i := range moves {
		if !s.inUpper(moves[i].Name) {
			moves[i].Err = fs.ErrNotExist
			continue
		}
		list = append(list, overlayfs.Aside{Removal: overlayfs.Removal{Name: moves[i].Name}, To: moves[i].To})
		which = append(which, i)
	}
	r, err := overlayfs.NewRemover(s.Store.RealDir(), s.opts.UpperLayer)
	if err != nil {
		for _, i := range which {
			moves[i].Err = err
		}
		return
	}
	defer func() { _ = r.Close() }()
	r.Aside(ctx, list)
	for n, i := range which {
		moves[i].Err, moves[i].Freed = list[n].Err, uint64(list[n].Bytes) //nolint:gosec // a count of bytes
		if list[n].LowerShows {
			s.stale.Store(true)
		}
		switch {
		case errors.Is(list[n].Err, overlayfs.ErrNotInUpper):
			moves[i].Err = fs.ErrNotExist
		case errors.Is(list[n].Err, overlayfs.ErrInUse):
			activity.Warnf(ctx, "leaving '%s' in the upper layer: %v", moves[i].Name, list[n].Err)
			moves[i].Err = fs.ErrNotExist // the next collection finds it
		}
	}
}

// asideForHook is aside as upstream does it, see removeForHook.
func (s *Store) asideForHook(ctx context.Context, moves []gc.Move) {
	for i := range moves {
		m := &moves[i]
		switch {
		case !s.inUpper(m.Name):
			m.Err = fs.ErrNotExist
		case s.lowers.exists(m.Name):
			// What is renamed behind the kernel's back must be deleted there, too.
			freed, err := nar.RemoveTree(ctx, s.upperPath(m.Name))
			m.Freed, m.Err = uint64(freed), err //nolint:gosec // a count of bytes
			s.stale.Store(true)
		default:
			m.Err = gc.Rename(s.Store.RealDir(), m)
		}
	}
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
func (ls lowers) exists(name string) bool { return ls.showing(name) != "" }
