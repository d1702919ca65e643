package lazy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// PathInfos gives what the origins say of each path, as far as it can be believed. What is here
// is as it was when it was fetched.
func (s *Store) PathInfos(ctx context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	if s.o.Scope == nil {
		return s.pathInfos(ctx, paths)
	}
	in, err := s.o.Scope.members(ctx, s)
	if err != nil {
		return nil, err
	}
	var wanted []storepath.Path
	var where []int
	for i, p := range paths {
		if in.Has(p) {
			wanted, where = append(wanted, p), append(where, i)
		}
	}
	infos := make([]*store.PathInfo, len(paths))
	found, err := s.pathInfos(ctx, wanted)
	if found == nil && err != nil {
		return nil, err
	}
	for n, info := range found {
		infos[where[n]] = info
	}
	return infos, err
}

// pathInfos is PathInfos without a scope.
func (s *Store) pathInfos(ctx context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	found, errs, err := s.ask(ctx, paths)
	if err != nil {
		return nil, err
	}
	infos := make([]*store.PathInfo, len(paths))
	partial := &store.PartialError{Errs: map[storepath.Path]error{}}
	for i, p := range paths {
		infos[i] = s.settle(p, found[p], errs[p])
		if infos[i] == nil && errs[p] != nil {
			partial.Errs[p] = errs[p]
		}
	}
	s.absent.note(paths, infos)
	if len(partial.Errs) > 0 {
		return infos, partial
	}
	return infos, nil
}

// ask asks the origins in order, each for all that none before has. errs is why it is not known of
// a path whether it is valid.
func (s *Store) ask(ctx context.Context, paths []storepath.Path) (found map[storepath.Path]*store.PathInfo, errs map[storepath.Path]error, err error) {
	found = make(map[storepath.Path]*store.PathInfo, len(paths))
	errs = map[storepath.Path]error{}
	rest := paths
	for _, from := range s.origins(ctx) {
		if len(rest) == 0 {
			break
		}
		began, these := time.Now(), rest
		infos, err := question(ctx, s, from, len(these), func(ctx context.Context) ([]*store.PathInfo, error) {
			return from.Store.PathInfos(ctx, these)
		})
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		var partial *store.PartialError
		isPartial := errors.As(err, &partial)
		if err != nil && !isPartial {
			s.count.unanswered.Add(1)
			s.blame(from, began, err)
		}
		var next []storepath.Path
		for i, p := range rest {
			var info *store.PathInfo
			if i < len(infos) {
				info = infos[i]
			}
			switch {
			case err != nil && !isPartial:
				errs[p] = err
			case isPartial && partial.Errs[p] != nil:
				errs[p] = partial.Errs[p]
			}
			if info != nil && s.believes(from, info) {
				found[p] = info
				delete(errs, p)
			} else {
				next = append(next, p)
			}
		}
		rest = next
	}
	return found, errs, nil
}

// origins are in the order in which they are asked: by priority, and last those for which everything would wait as long as
// it did a moment ago. None are when offline.
func (s *Store) origins(ctx context.Context) []*origin {
	if s.o.Offline {
		return nil
	}
	s.ranking.Lock()
	ranked := s.ranked
	s.ranking.Unlock()
	if ranked == nil {
		ranked = s.rank(ctx)
	}
	var first, last []*origin
	for _, from := range ranked {
		if from.rests() {
			last = append(last, from)
		} else {
			first = append(first, from)
		}
	}
	return append(first, last...)
}

// rank sorts the origins by priority, and remembers that once all of them are known.
func (s *Store) rank(ctx context.Context) []*origin {
	asks := func(from *origin) bool { return len(s.from) > 1 && from.Priority == nil && !from.rests() }
	said := s.greet(ctx, asks)
	rank, known := map[*origin]int{}, true
	for i, from := range s.from {
		rank[from] = unknownPriority
		switch {
		case from.Priority != nil:
			rank[from] = *from.Priority
		case said[i].asked && said[i].err == nil:
			rank[from] = said[i].priority
		case said[i].asked, len(s.from) > 1 && from.rests():
			known = false
		}
	}
	all := slices.Clone(s.from)
	slices.SortStableFunc(all, func(a, b *origin) int { return cmp.Compare(rank[a], rank[b]) })
	if known {
		s.ranking.Lock()
		s.ranked = all
		s.ranking.Unlock()
	}
	return all
}

// advertised is what an origin says of itself.
type advertised struct {
	asked    bool
	priority int
	err      error
}

// greet asks origins how they want to be used, all at once: each answers nothing else before it was asked that. The answers
// are in the order of the options.
func (s *Store) greet(ctx context.Context, which func(*origin) bool) []advertised {
	said := make([]advertised, len(s.from))
	var all sync.WaitGroup
	for i, from := range s.from {
		a, ok := store.As[store.Advertiser](from.Store)
		if !ok || !which(from) {
			continue
		}
		all.Go(func() {
			began := time.Now()
			said[i].asked = true
			said[i].priority, said[i].err = question(ctx, s, from, 1, func(ctx context.Context) (int, error) {
				priority, _, err := a.Advertise(ctx)
				return priority, err
			})
			if said[i].err != nil && ctx.Err() == nil {
				from.delays(began)
			}
		})
	}
	all.Wait()
	return said
}

// An origin that has kept somebody waiting in vain for so long is asked last for a while, if there are others: not everything
// is to wait for it.
const (
	restAfter = time.Second
	restFor   = time.Minute
)

// delays notes that what began then has failed.
func (o *origin) delays(began time.Time) {
	if now := time.Now(); now.Sub(began) > restAfter {
		o.rest.Store(now.Add(restFor).UnixNano())
	}
}

// rests tells whether it is to be asked last.
func (o *origin) rests() bool { return time.Now().UnixNano() < o.rest.Load() }

// spares tells whether an origin is not to be asked for what one can do without, as there are others.
func (s *Store) spares(from *origin) bool { return len(s.from) > 1 && from.rests() }

// unknownPriority is that of an origin that does not say, or cannot be asked now.
const unknownPriority = math.MaxInt32

// believes tells whether somebody vouches for what an origin says of an object.
func (s *Store) believes(from *origin, info *store.PathInfo) bool {
	if info.NarSize == 0 || info.NarHash.Algorithm() != nixhash.SHA256 {
		return false // nothing could ever be compared with it
	}
	if from.Trusted || s.vouched(info) {
		return true
	}
	if !from.unsigned.Swap(true) {
		s.o.Log.Warn(fmt.Sprintf("'%s' from '%s' is not signed by any of the keys in 'trusted-public-keys', and so is not valid (nor is anything else like that from there)",
			s.o.Dir.Print(info.Path), from.Store.URI()))
	}
	return false
}

// vouched tells whether an info needs no trust in where it comes from.
func (s *Store) vouched(info *store.PathInfo) bool {
	return s.o.NoSignatures || s.o.Keys.CountValid(info, s.o.Dir) > 0 || s.provesItself(info)
}

// provesItself tells whether the path follows from the NAR hash, which is compared in any
// case.
func (s *Store) provesItself(info *store.PathInfo) bool {
	return info.CA.Method == storepath.Recursive && info.CA.Hash == info.NarHash && info.IsContentAddressed(s.o.Dir)
}

// settle decides between what the origins say of an object, nil if none has it, err if that could not be
// told, and what is here. The info of an object must be that of its contents; and what is here
// stays valid while the origins cannot be asked.
func (s *Store) settle(p storepath.Path, said *store.PathInfo, err error) *store.PathInfo {
	if said == nil && err == nil && !s.o.Offline || !s.o.Cache.Has(p) {
		return said
	}
	kept, kerr := s.o.Cache.readInfo(p)
	switch {
	case kerr != nil: // it is just being published, and is the one that was asked for
		return said
	case said != nil && said.NarHash == kept.info.NarHash:
		return said
	case s.vouched(&kept.info) || s.trustsOrigin(kept.origin):
		return &kept.info
	}
	return said
}

// trustsOrigin tells whether a URI is that of an origin that is trusted.
func (s *Store) trustsOrigin(uri string) bool {
	return slices.ContainsFunc(s.o.Origins, func(o Origin) bool { return o.Trusted && o.Store.URI() == uri })
}
