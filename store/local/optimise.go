package local

import (
	"context"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/optimise"
	"github.com/strata-nix/strata/storepath"
)

// optimiseBatch is how many paths are kept from being collected at a time.
const optimiseBatch = 256

// Optimise makes equal files of the objects that this store may delete one, see
// [store.Optimiser]. It may be interrupted at any time.
func (s *Store) Optimise(ctx context.Context) error {
	release, err := s.hold()
	if err != nil {
		return err
	}
	defer release()
	var paths []storepath.Path
	for p, err := range s.AllPaths(ctx) {
		if err != nil {
			return err
		}
		paths = append(paths, p)
	}
	ctx, act := activity.Start(ctx, activity.Info, activity.OptimiseStore, "")
	defer act.Stop()
	var files, bytes atomic.Uint64
	linker, err := optimise.New(s.real, optimise.Options{All: true, Warn: activity.Warnf, Linked: func(size, blocks uint64) {
		files.Add(1)
		bytes.Add(size)
		act.Result(activity.FileLinked, activity.Int(size), activity.Int(blocks))
	}})
	if err != nil {
		return err
	}
	defer func() { _ = linker.Close() }()
	for done := 0; done < len(paths) && err == nil; done += optimiseBatch {
		act.Progress(uint64(done), uint64(len(paths)), 0, 0)
		err = s.optimiseSome(ctx, linker, paths[done:min(done+optimiseBatch, len(paths))])
	}
	const mebi = 1 << 20
	activity.Logf(ctx, activity.Info, "%.1f MiB freed by hard-linking %d files", float64(bytes.Load())/mebi, files.Load())
	return err
}

// optimiseNew does that for an object that is just put in place.
func (s *Store) optimiseNew(ctx context.Context, p storepath.Path) error {
	linker, err := optimise.New(s.real, optimise.Options{Warn: activity.Warnf})
	if err != nil {
		return err
	}
	defer func() { _ = linker.Close() }()
	_, err = linker.Object(ctx, p.Base())
	return err
}

func (s *Store) optimiseSome(ctx context.Context, linker *optimise.Linker, paths []storepath.Path) error {
	roots := s.NewTempRoots()
	defer func() { _ = roots.Close() }()
	if err := roots.Add(ctx, paths); err != nil {
		return err
	}
	valid, err := s.Own().ValidPaths(ctx, paths)
	if err != nil {
		return err
	}
	names := make([]string, len(valid))
	for i, p := range valid {
		names[i] = p.Base()
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, name := range s.present(names) {
		group.Go(func() error {
			_, err := linker.Object(ctx, name)
			return err
		})
	}
	return group.Wait()
}
