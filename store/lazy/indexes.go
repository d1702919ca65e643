package lazy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/store"
)

// asking is how often an origin had an index when it was asked for one: who never has any is not
// asked for each object.
type asking struct{ had, lacked atomic.Int64 }

// After so many questions in vain only each n-th is asked.
const (
	askingFirst = 8
	askingEach  = 16
)

func (a *asking) worthwhile() bool {
	lacked := a.lacked.Load()
	if a.had.Load() > 0 || lacked < askingFirst {
		return true
	}
	return a.lacked.Add(1)%askingEach == 0
}

// indexOf finds an index of an object that can be believed; nil if there is none. kept tells that it is in
// the cache.
func (s *Store) indexOf(ctx context.Context, info *store.PathInfo) (x *fileindex.Index, signed *fileindex.Signed, kept bool) {
	if s.o.Verify == VerifyStream || s.distrusted(info) {
		return nil, nil, false
	}
	if x, signed := s.keptIndex(info); x != nil {
		return x, signed, true
	}
	for _, from := range s.origins(ctx) {
		indexer, ok := store.As[Indexer](from.Store)
		if !ok || !from.indexes.worthwhile() {
			continue
		}
		signed, err := indexer.NarIndex(ctx, info.Path)
		if errors.Is(err, fs.ErrNotExist) {
			from.indexes.lacked.Add(1)
			continue
		}
		if ctx.Err() != nil {
			return nil, nil, false
		}
		if err == nil {
			from.indexes.had.Add(1)
			if x, err = s.believeIndex(from, info, signed); err == nil {
				return x, signed, false
			}
		}
		s.complain("index "+info.Path.Base(), fmt.Errorf("the file index of '%s' at '%s' is not used: %w", info.Path, from.Store.URI(), err))
	}
	return nil, nil, false
}

// errUnsigned: nobody vouches for an index.
var errUnsigned = errors.New("none of the keys in 'trusted-public-keys' has signed it")

// believeIndex decodes an index that somebody vouches for.
func (s *Store) believeIndex(from *origin, info *store.PathInfo, signed *fileindex.Signed) (*fileindex.Index, error) {
	if !from.Trusted && !s.o.NoSignatures && !signed.VerifiedBy(s.o.Keys) {
		return nil, errUnsigned
	}
	if !signed.Describes(info) {
		return nil, errors.New("it is that of another object")
	}
	return signed.Decode()
}

// keptIndex is one that was believed before: by this store, or by another of the same domain of trust.
func (s *Store) keptIndex(info *store.PathInfo) (*fileindex.Index, *fileindex.Signed) {
	name := s.o.Cache.at(partialDir, info.Path.Base())
	data, err := readSmall(name, fileindex.MaxSize)
	if err != nil {
		return nil, nil
	}
	signed, err := fileindex.Parse(s.o.Dir, name, data)
	if err != nil || !signed.Describes(info) {
		return nil, nil // the origins may have a better one
	}
	x, err := signed.Decode()
	if err != nil {
		return nil, nil
	}
	_ = os.Chtimes(name, time.Time{}, time.Now()) // it is of use; at worst it goes sooner
	return x, signed
}

// keepIndex keeps the index of an object of which files are about to come.
func (pt *partial) keepIndex() {
	pt.mu.Lock()
	kept := pt.kept
	pt.kept = true
	pt.mu.Unlock()
	c := pt.o.s.o.Cache
	if kept {
		return
	}
	err := replaceFile(c.at(partialDir, pt.info.Path.Base()), pt.signed.Encoded())
	if err != nil && !errors.Is(err, fs.ErrExist) {
		c.o.Log.Warn(fmt.Sprintf("a file index is not kept: %v", err))
	}
}

// distrust makes an object be fetched as a whole from now on: its index was signed and wrong.
func (s *Store) distrust(info *store.PathInfo) {
	s.lies.mu.Lock()
	defer s.lies.mu.Unlock()
	if s.lies.paths == nil || len(s.lies.paths) >= maxAbsent {
		s.lies.paths = map[string]bool{}
	}
	s.lies.paths[info.Path.Base()] = true
}

func (s *Store) distrusted(info *store.PathInfo) bool {
	s.lies.mu.Lock()
	defer s.lies.mu.Unlock()
	return s.lies.paths[info.Path.Base()]
}
