package lazy

import (
	"cmp"
	"context"
	"errors"
	"sync"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// PrefetchOptions say what is fetched ahead.
type PrefetchOptions struct {
	// NoClosure fetches nothing but the paths themselves.
	NoClosure bool
	// Jobs is how many objects are fetched at once; 0: DefaultPrefetchJobs.
	Jobs int
	// Done, if not nil, hears of each object, by one goroutine at a time.
	Done func(p storepath.Path, err error)
}

// DefaultPrefetchJobs keeps a connection busy without leaving nothing to those who wait.
const DefaultPrefetchJobs = 8

// Prefetch makes objects be here before somebody reads them. It may run together with
// anything else; what somebody else fetches is waited for. The error joins those of the objects.
func (s *Store) Prefetch(ctx context.Context, paths []storepath.Path, o PrefetchOptions) error {
	infos, err := s.wanted(ctx, paths, o.NoClosure)
	if err != nil {
		return err
	}
	objects := &Objects{s: s, fetch: newFetcher(s)}
	var (
		mu   sync.Mutex
		errs []error
		next int
		wg   sync.WaitGroup
	)
	take := func() *store.PathInfo {
		mu.Lock()
		defer mu.Unlock()
		if next == len(infos) || ctx.Err() != nil {
			return nil
		}
		next++
		return infos[next-1]
	}
	for range cmp.Or(o.Jobs, DefaultPrefetchJobs) {
		wg.Go(func() {
			for info := take(); info != nil; info = take() {
				err := objects.prefetch(ctx, info)
				mu.Lock()
				errs = append(errs, err)
				if o.Done != nil && ctx.Err() == nil {
					o.Done(info.Path, err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	objects.fetch.idle.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(errs...)
}

// wanted are the infos of paths, with all that they refer to.
func (s *Store) wanted(ctx context.Context, paths []storepath.Path, only bool) ([]*store.PathInfo, error) {
	if !only {
		return store.Closure(ctx, s, paths)
	}
	infos, err := s.PathInfos(ctx, paths)
	if err != nil {
		return nil, err
	}
	for i, info := range infos {
		if info == nil {
			return nil, &store.InvalidPathError{Path: s.o.Dir.Print(paths[i])}
		}
	}
	return infos, nil
}

// prefetch makes all of an object be here. What is here already of its files, of whatever object they came, is not
// fetched again if an index tells which they are; where nothing is, all of it comes by one request.
func (o *Objects) prefetch(ctx context.Context, info *store.PathInfo) error {
	c := o.s.o.Cache
	if c.Has(info.Path) {
		return nil
	}
	if pt := o.partialOf(ctx, info); pt != nil {
		for range 3 { // some of it may be evicted meanwhile
			all := &wantedFiles{info: info, files: []string{""}}
			if len(pt.wantedOf(all.files)) == pt.x.Contents.Len() || o.fetchGroup(ctx, all, pt) != nil || pt.settle(ctx) != nil {
				break
			}
			if c.Has(info.Path) {
				return nil
			}
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return o.fetch.fetch(ctx, info)
}
