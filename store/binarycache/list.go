package binarycache

import (
	"context"
	"errors"
	"iter"
	"strings"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// listed is how many narinfos are read together.
const listed = 512

// AllPaths lists the paths of the cache, as far as its storage can be listed. There is
// no one moment: what comes or goes meanwhile may be there or not.
func (s *Store) AllPaths(ctx context.Context) iter.Seq2[storepath.Path, error] {
	return func(yield func(storepath.Path, error) bool) {
		for info, err := range s.AllPathInfos(ctx) {
			if err != nil {
				yield(storepath.Path{}, err)
				return
			}
			if !yield(info.Path, nil) {
				return
			}
		}
	}
}

// AllPathInfos is AllPaths with the infos. The names in a cache have only the hash
// parts, so that each narinfo has to be read.
func (s *Store) AllPathInfos(ctx context.Context) iter.Seq2[*store.PathInfo, error] {
	return func(yield func(*store.PathInfo, error) bool) {
		if _, err := s.readable(ctx); err != nil {
			yield(nil, err)
			return
		}
		var batch []string
		flush := func() bool {
			ok := s.yieldInfos(ctx, batch, yield)
			batch = batch[:0]
			return ok
		}
		for object, err := range s.objects.List(ctx, "") {
			if errors.Is(err, errors.ErrUnsupported) {
				err = &store.UnsupportedError{Op: "queryAllValidPaths", Store: s.o.URI}
			}
			if err != nil {
				yield(nil, err)
				return
			}
			hash, ok := strings.CutSuffix(object.Name, infoSuffix)
			if !ok || storepath.CheckHashPart(hash) != nil {
				continue
			}
			if batch = append(batch, hash); len(batch) == listed && !flush() {
				return
			}
		}
		flush()
	}
}

// yieldInfos gives the infos of some hash parts. One that is not there any more is
// passed over; one that makes no sense ends the list.
func (s *Store) yieldInfos(ctx context.Context, hashes []string, yield func(*store.PathInfo, error) bool) bool {
	infos, errs, err := s.byHashPart(ctx, hashes)
	if err != nil {
		yield(nil, err)
		return false
	}
	for _, h := range hashes {
		if err := errs[h]; err != nil {
			yield(nil, err)
			return false
		}
		if info := infos[h]; info != nil && !yield(&info.PathInfo, nil) {
			return false
		}
	}
	return true
}
