package local

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/optimise"
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
		s.clearLeftovers()  // which have a root as long as anybody is at work
		s.db.SpendReserve() // the disk may be full
		defer s.db.Reserve()
		var over func()
		if ctx, over, err = s.announceCollection(ctx); err != nil {
			return nil, err
		}
		defer over()
	}
	if !deletes || s.layer.Deleting == nil {
		return gc.Collect(ctx, s.garbageParts(), o)
	}
	done := s.layer.Deleting(ctx)
	res, err := gc.Collect(ctx, s.garbageParts(), o)
	return res, errors.Join(err, done())
}

// WhyAlive tells what keeps paths alive, see [store.Explainer].
func (s *Store) WhyAlive(ctx context.Context, paths []storepath.Path, nearest bool) ([][]store.Reason, error) {
	roots, err := s.FindRoots(ctx, false)
	if err != nil {
		return nil, err
	}
	g, keeps, err := s.graph(ctx, false)
	if err != nil {
		return nil, err
	}
	return gc.Why(g, keeps, roots, paths, nearest), nil
}

func (s *Store) garbageParts() gc.Parts {
	return gc.Parts{
		Dir:         s.dir,
		StateDir:    s.state,
		RealDir:     s.real,
		Deletable:   s.layer.Deletable,
		Links:       optimise.LinksName,
		SeenAt:      []string{s.real, s.layer.Deletable},
		RootsDaemon: s.opts.UseRootsDaemon,
		Graph:       s.graph,
		Invalidate:  s.invalidate,
		Aside:       s.layer.Aside,
		Remove:      s.layer.Remove,
		Claim:       s.claim,
		MoreRoots:   s.leasedRoots,
	}
}

// graph loads the database's graph, with the edges by which live paths keep others.
func (s *Store) graph(ctx context.Context, sizes bool) (gc.Graph, gc.Keeps, error) {
	g, err := s.db.GraphWith(ctx, nixdb.GraphOptions{NoSizes: !sizes})
	if err != nil {
		return nil, nil, err
	}
	l := gc.Liveness{KeepOutputs: s.opts.KeepOutputs, KeepDerivations: !s.opts.DropDerivations}
	if s.opts.CADerivations {
		l.Outputs = s.DerivationOutputs
	}
	keeps, err := l.Keeps(ctx, s.dir, g)
	if err != nil {
		return nil, nil, err
	}
	return g, keeps, nil
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

// present gives those names of which something lies where we delete.
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

// claim locks a temporary directory of Nix, unless somebody is at work in it.
func (s *Store) claim(name string) (release func(), ok bool) {
	l, err := flock.OpenDir(filepath.Join(s.real, name))
	if err != nil {
		return func() {}, errors.Is(err, fs.ErrNotExist)
	}
	release = func() { _ = l.Close() }
	if free, err := l.Try(flock.Exclusive); !free || err != nil {
		release()
		return nil, false
	}
	return release, true
}
