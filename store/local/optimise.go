package local

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/optimise"
	"github.com/strata-nix/strata/storepath"
)

// optimiseBatch is how many paths are kept from being collected at a time.
const optimiseBatch = 1024

// Optimise makes equal files of the objects that this store may delete one, see
// [store.Optimiser]. It may be interrupted at any time.
func (s *Store) Optimise(ctx context.Context) error {
	_, err := s.OptimiseWith(ctx, optimise.Request{Reflink: s.opts.Reflink})
	return err
}

// OptimiseWith is Optimise as it is asked for, see [optimise.Optimiser].
func (s *Store) OptimiseWith(ctx context.Context, r optimise.Request) (out optimise.Outcome, err error) {
	if !r.DryRun {
		release, err := s.hold()
		if err != nil {
			return out, err
		}
		defer release()
	}
	var paths []storepath.Path
	for p, err := range s.Own().AllPaths(ctx) {
		if err != nil {
			return out, err
		}
		if _, skip := r.Skip[p]; !skip {
			paths = append(paths, p)
		}
	}
	ctx, act := activity.Start(ctx, activity.Info, activity.OptimiseStore, "")
	defer act.Stop()
	linker, err := s.linker(ctx, optimise.Options{
		All: true, DryRun: r.DryRun, Reflink: r.Reflink,
		Linked: func(size, blocks uint64) { act.Result(activity.FileLinked, activity.Int(size), activity.Int(blocks)) },
	})
	if err != nil {
		return out, err
	}
	defer func() { _ = linker.Close() }()
	run := optimising{Store: s, linker: linker, dryRun: r.DryRun}
	if err := run.inBatches(ctx, paths, func(int) {}, run.count); err != nil {
		return out, err
	}
	progress := func(done int) { act.Progress(uint64(done), uint64(len(paths)), 0, 0) } //nolint:gosec // not negative
	err = run.inBatches(ctx, paths, progress, run.link)
	out.Stats = run.stats
	const mebi = 1 << 20
	if !r.DryRun {
		activity.Logf(ctx, activity.Info, "%.1f MiB freed by hard-linking %d files", float64(out.Bytes)/mebi, out.Files)
	}
	return out, err
}

// linker makes one for the objects that this store may delete.
func (s *Store) linker(ctx context.Context, o optimise.Options) (*optimise.Linker, error) {
	o.Warn = activity.Warnf
	if s.layer.Deletable != s.real {
		o.Layer = s.layer.Deletable
	}
	if s.layer.OwnLinks != nil && !o.DryRun {
		if err := s.layer.OwnLinks(ctx); err != nil {
			return nil, err
		}
	}
	return optimise.New(s.real, o)
}

// optimiseNew does that for an object that is just put in place.
func (s *Store) optimiseNew(ctx context.Context, p storepath.Path) error {
	linker, err := s.linker(ctx, optimise.Options{Reflink: s.opts.Reflink})
	if err != nil {
		return err
	}
	defer func() { _ = linker.Close() }()
	_, err = linker.Object(ctx, p.Base())
	return err
}

// optimising is one run over the whole store.
type optimising struct {
	*Store
	linker *optimise.Linker
	dryRun bool

	mu    sync.Mutex
	stats optimise.Stats
}

// inBatches deals with all paths, many at a time.
func (o *optimising) inBatches(ctx context.Context, paths []storepath.Path, progress func(done int), do func(context.Context, []storepath.Path) error) error {
	for done := 0; done < len(paths); done += optimiseBatch {
		progress(done)
		if err := do(ctx, paths[done:min(done+optimiseBatch, len(paths))]); err != nil {
			return err
		}
	}
	return nil
}

// count takes notice of some objects. They may vanish meanwhile.
func (o *optimising) count(ctx context.Context, paths []storepath.Path) error {
	return o.each(ctx, bases(paths), o.linker.Count)
}

// link deals with some objects, which are kept meanwhile.
func (o *optimising) link(ctx context.Context, paths []storepath.Path) error {
	if !o.dryRun {
		roots := o.NewTempRoots()
		defer func() { _ = roots.Close() }()
		if err := roots.Add(ctx, paths); err != nil {
			return err
		}
	}
	valid, err := o.Own().ValidPaths(ctx, paths)
	if err != nil {
		return err
	}
	return o.each(ctx, bases(valid), func(ctx context.Context, name string) error {
		s, err := o.linker.Object(ctx, name)
		o.mu.Lock()
		defer o.mu.Unlock()
		o.stats.Add(s)
		return err
	})
}

func bases(paths []storepath.Path) []string {
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = p.Base()
	}
	return names
}

// each calls f for the objects of a batch that this store may delete, several at a time.
func (o *optimising) each(ctx context.Context, names []string, f func(context.Context, string) error) error {
	names = o.present(names)
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(names) {
					return nil
				}
				if err := f(ctx, names[i]); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}
