package lazy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
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

// likely tells whether it is more likely than not that there is one.
func (a *asking) likely() bool { return a.had.Load() > 0 || a.lacked.Load() == 0 }

// indexOf finds an index of an object that can be believed; nil if there is none. kept tells that it is in
// the cache.
func (s *Store) indexOf(ctx context.Context, info *store.PathInfo) (x *fileindex.Index, signed *fileindex.Signed, kept bool) {
	if s.distrusted(info) {
		return nil, nil, false
	}
	if x, signed := s.keptIndex(info); x != nil {
		return x, signed, true
	}
	for _, from := range s.origins(ctx) {
		indexer, ok := store.As[Indexer](from.Store)
		if !ok || s.spares(from) || !from.indexes.worthwhile() {
			continue
		}
		began := time.Now()
		signed, err := question(ctx, s, from, largeAnswer, func(ctx context.Context) (*fileindex.Signed, error) {
			return s.narIndex(ctx, from, indexer, info.Path)
		})
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
		} else {
			from.delays(began)
		}
		s.complain("index "+info.Path.Base(), fmt.Errorf("the file index of '%s' at '%s' is not used: %w", info.Path, from.Store.URI(), err))
	}
	return nil, nil, false
}

// early are indexes that were asked for before it was known whether their objects are valid: both questions
// together take as long as one.
type early struct {
	mu sync.Mutex
	of map[earlyKey]*earlyIndex
}

type earlyKey struct {
	from *origin
	path storepath.Path
}

type earlyIndex struct {
	cancel context.CancelFunc
	done   chan struct{}
	signed *fileindex.Signed
	err    error
}

// maxEarly is how many are waited for at once.
const maxEarly = 64

// askEarly asks the first origin that has had some, or of which nobody knows that yet, for the index of an object. forget forgets the answer if nobody has
// taken it.
func (s *Store) askEarly(ctx context.Context, p storepath.Path) (forget func()) {
	nothing := func() {}
	if s.o.Cache.Has(p) {
		return nothing
	}
	if _, err := os.Lstat(s.o.Cache.at(partialDir, p.Base())); err == nil {
		return nothing
	}
	for _, from := range s.origins(ctx) {
		indexer, ok := store.As[Indexer](from.Store)
		if !ok || s.spares(from) || !from.indexes.likely() {
			continue
		}
		key := earlyKey{from, p}
		work, cancel := context.WithCancel(context.WithoutCancel(ctx))
		e := &earlyIndex{cancel: cancel, done: make(chan struct{})}
		s.early.mu.Lock()
		defer s.early.mu.Unlock()
		if s.early.of[key] != nil || len(s.early.of) >= maxEarly {
			cancel()
			return nothing
		}
		if s.early.of == nil {
			s.early.of = map[earlyKey]*earlyIndex{}
		}
		s.early.of[key] = e
		go func() {
			defer cancel()
			defer close(e.done)
			e.signed, e.err = indexer.NarIndex(work, p)
		}()
		return func() {
			s.early.mu.Lock()
			defer s.early.mu.Unlock()
			if s.early.of[key] == e {
				delete(s.early.of, key)
				cancel()
			}
		}
	}
	return nothing
}

// narIndex asks an origin for an index, if that has not been done yet.
func (s *Store) narIndex(ctx context.Context, from *origin, indexer Indexer, p storepath.Path) (*fileindex.Signed, error) {
	key := earlyKey{from, p}
	s.early.mu.Lock()
	e := s.early.of[key]
	delete(s.early.of, key)
	s.early.mu.Unlock()
	if e != nil {
		select {
		case <-e.done:
		case <-ctx.Done():
			e.cancel()
			return nil, context.Cause(ctx)
		}
		if e.err == nil || errors.Is(e.err, fs.ErrNotExist) {
			return e.signed, e.err
		}
	}
	return indexer.NarIndex(ctx, p)
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

// keepIndex keeps the index of an object of which files are about to come. Nobody waits for the disk meanwhile, but the
// object is not complete before that.
func (pt *partial) keepIndex() {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	if pt.kept {
		return
	}
	pt.kept = true
	pt.busy++
	pt.o.fetch.idle.Go(func() {
		c := pt.o.s.o.Cache
		err := replaceFile(c.at(partialDir, pt.info.Path.Base()), pt.signed.Encoded())
		if err != nil && !errors.Is(err, fs.ErrExist) {
			c.o.Log.Warn(fmt.Sprintf("a file index is not kept: %v", err))
		}
		pt.mu.Lock()
		defer pt.mu.Unlock()
		pt.busy--
		pt.ended()
		pt.rest()
	})
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
