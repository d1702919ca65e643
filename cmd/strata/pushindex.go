package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/storepath"
)

// indexed are objects that a cache had already and that were looked at for file indexes.
type indexed struct {
	written []storepath.Path // they have one now
	whole   []storepath.Path // one would be of no use to them
	items   []item           // likewise
}

// indexJobs is how many NARs are read at once to make indexes of them.
const indexJobs = 4

// addIndexes gives file indexes to objects that a cache has without.
func addIndexes(ctx context.Context, dst store.Store, there []item) (x indexed, err error) {
	cache, ok := store.As[interface {
		AddIndex(context.Context, storepath.Path) (binarycache.IndexState, error)
	}](dst)
	if !ok {
		return x, nil
	}
	states := make([]binarycache.IndexState, len(there))
	var mu sync.Mutex
	var errs []error
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(indexJobs)
	for i, it := range there {
		group.Go(func() error {
			state, err := cache.AddIndex(ctx, it.to.Path)
			states[i] = state
			if err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
			return ctx.Err() // one that fails keeps no other from getting its own
		})
	}
	if err := group.Wait(); err != nil {
		return x, err
	}
	for i, it := range there {
		switch states[i] {
		case binarycache.IndexWritten:
			x.written = append(x.written, it.to.Path)
		case binarycache.IndexOfWhole:
			x.whole, x.items = append(x.whole, it.to.Path), append(x.items, it)
		case binarycache.IndexThere:
		}
	}
	return x, errors.Join(errs...)
}

// keepSignatures lets what is uploaded anew have the signatures that it has in the cache.
func (x *indexed) keepSignatures(ctx context.Context, dst store.Store) error {
	infos, err := dst.PathInfos(ctx, x.whole)
	if err != nil {
		return err
	}
	for i, info := range infos {
		if to := x.items[i].to; info != nil && info.NarHash == to.NarHash {
			to.Signatures = store.SortSignatures(append(slices.Clone(to.Signatures), info.Signatures...))
		}
	}
	return nil
}

// tell says what came of it.
func (x *indexed) tell(ctx context.Context, rewritten bool) {
	if n := len(x.written); n > 0 {
		activity.Logf(ctx, activity.Info, "%d paths that were there have got file indexes", n)
	}
	switch n := len(x.whole); {
	case n == 0:
	case rewritten:
		activity.Logf(ctx, activity.Info, "%d paths that were there and could only be read as a whole are uploaded anew", n)
	default:
		activity.Warnf(ctx, "%s", fmt.Sprintf("%d paths are there in a form that can only be read as a whole, and get no file index; with --rewrite they are uploaded anew", n))
	}
}
