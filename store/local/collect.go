package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// FindRoots finds what keeps paths alive, see [store.Collector].
func (s *Store) FindRoots(ctx context.Context, censor bool) (store.Roots, error) {
	return gc.FindRoots(ctx, s.garbageParts(), s.ValidPaths, censor)
}

// CollectGarbage deletes what nothing keeps alive, see [store.Collector].
func (s *Store) CollectGarbage(ctx context.Context, o store.GCOptions) (*store.GCResult, error) {
	release, err := s.hold()
	if err != nil {
		return nil, err
	}
	defer release()
	deletes := o.Action == store.DeleteDead || o.Action == store.DeleteSpecific
	if deletes {
		s.db.SpendReserve() // the disk may be full
		defer s.db.Reserve()
		var over func()
		if ctx, over, err = s.announceCollection(ctx); err != nil {
			return nil, err
		}
		defer over()
	}
	parts := s.garbageParts()
	links := &links{s: s}
	parts.Remove = links.remove
	res, err := gc.Collect(ctx, parts, o)
	if err == nil && deletes {
		var freed uint64
		freed, err = links.dropUnused(ctx)
		res.BytesFreed += freed
	}
	return res, err
}

func (s *Store) garbageParts() gc.Parts {
	return gc.Parts{
		Dir:         s.dir,
		StateDir:    s.state,
		SeenAt:      []string{s.real, s.layer.Deletable},
		RootsDaemon: s.opts.UseRootsDaemon,
		Graph:       s.graph,
		Entries:     s.entries,
		Invalidate:  s.invalidate,
		Present:     s.present,
		Busy:        s.busy,
		MoreRoots:   s.leasedRoots,
	}
}

// graph loads the database's graph, with the edges that keep-outputs and
// keep-derivations add.
func (s *Store) graph(ctx context.Context) (gc.Graph, gc.Keeps, error) {
	g, err := s.db.Graph(ctx)
	if err != nil {
		return nil, nil, err
	}
	return g, g.Keeps(s.opts.KeepOutputs, !s.opts.DropDerivations), nil
}

// invalidate makes paths invalid, but for those that something refers to that
// came after the graph was loaded.
func (s *Store) invalidate(ctx context.Context, paths []storepath.Path) (inUse []storepath.Path, err error) {
	for {
		err := s.db.Invalidate(ctx, paths)
		var used *nixdb.InUseError
		if !errors.As(err, &used) {
			return inUse, err
		}
		activity.Warnf(ctx, "%v", used)
		busy, err := s.dir.Parse(used.Path)
		if err != nil {
			return inUse, err
		}
		inUse = append(inUse, busy)
		paths = slices.DeleteFunc(slices.Clone(paths), func(p storepath.Path) bool { return p == busy })
	}
}

// entries lists what lies in the directory from which we delete.
func (s *Store) entries(context.Context) ([]string, error) {
	list, err := os.ReadDir(s.layer.Deletable)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(list))
	for _, e := range list {
		// A character device is OverlayFS's way to say that there is nothing.
		if e.Name() == ".links" || e.Type()&fs.ModeCharDevice != 0 {
			continue
		}
		names = append(names, e.Name())
	}
	return names, nil
}

// present gives those names of which something lies where we delete. On a plain
// store a valid path without an object is worth a line too.
func (s *Store) present(names []string) []string {
	if s.layer.Lower == nil {
		return names
	}
	out := make([]string, 0, len(names))
	for _, n := range names {
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(s.layer.Deletable, n), &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFCHR {
			out = append(out, n)
		}
	}
	return out
}

// busy tells whether somebody has a temporary directory locked.
func (s *Store) busy(name string) bool {
	l, err := flock.OpenDir(filepath.Join(s.real, name))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	defer func() { _ = l.Close() }()
	free, err := l.Try(flock.Exclusive)
	return !free || err != nil
}
