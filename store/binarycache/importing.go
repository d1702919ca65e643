package binarycache

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// defaultJobs is how many objects are under way at once. Those that go far spend
// most of their time waiting.
const defaultJobs = 16

// Import puts many objects into the cache, several at a time, see [store.Importer].
// NARs go as they come; the narinfo of an object is written after those of what it
// refers to, so that at no moment anybody finds an object without its closure.
// Signatures are not looked at.
func (s *Store) Import(ctx context.Context, imports []store.Import, o store.ImportOptions) error {
	if err := s.writable(ctx); err != nil {
		return err
	}
	r, err := s.newImportRun(ctx, imports, o)
	if err != nil {
		return err
	}
	jobs := o.Jobs
	if jobs <= 0 {
		jobs = defaultJobs
	}
	stop := context.AfterFunc(ctx, r.wake)
	defer stop()
	var wg sync.WaitGroup
	for range min(jobs, len(r.todo)) {
		wg.Go(func() { r.work(ctx) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(r.errs...)
}

// fetch gets the object of an import from the first offer that holds what it
// promises, and puts its NAR into the cache.
func (s *Store) fetch(ctx context.Context, im *store.Import, repair bool) (*narinfo.NarInfo, *store.Offer, error) {
	offers := im.Offers
	var errs []error
	var last error
	for {
		for i := range offers {
			ni, err := s.fetchOffer(ctx, im.Path, &offers[i], repair)
			if err == nil {
				return ni, &offers[i], nil
			}
			if ctx.Err() != nil {
				return nil, nil, context.Cause(ctx)
			}
			last = fmt.Errorf("copying '%s' from '%s': %w", s.o.Dir.Print(im.Path), offers[i].From, err)
			errs = append(errs, last)
		}
		offers = nil
		if im.More != nil {
			offers = im.More(ctx, last)
		}
		if len(offers) == 0 {
			break
		}
		if len(errs) > maxOffers {
			break // somebody always has one more
		}
	}
	if len(errs) == 0 {
		errs = append(errs, fmt.Errorf("nobody has '%s'", s.o.Dir.Print(im.Path)))
	}
	return nil, nil, errors.Join(errs...)
}

// maxOffers bounds the offers of one object that are tried.
const maxOffers = 100

// fetchOffer gets an object from one place.
func (s *Store) fetchOffer(ctx context.Context, p storepath.Path, offer *store.Offer, repair bool) (*narinfo.NarInfo, error) {
	if offer.Info == nil || offer.Info.Path != p {
		return nil, errors.New("the offer is for another path")
	}
	return s.packs.do(ctx, p, offer.Info.NarHash, func() (_ *narinfo.NarInfo, err error) {
		archive, err := offer.Open(ctx)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, archive.Close()) }()
		return s.pack(ctx, offer.Info, archive, repair)
	})
}

// packs are the NARs that are just being put into the cache, by several imports
// perhaps. The zero value has none.
type packs struct {
	mu    sync.Mutex
	under map[packKey]*packing
}

type packKey struct {
	path storepath.Path
	hash nixhash.Hash
}

// packing is one of them.
type packing struct {
	done chan struct{} // closed at the end; then the others are set
	info *narinfo.NarInfo
	err  error
}

// do runs f, unless somebody does just now: then it waits for what that gives, and
// runs f if it gives nothing.
func (p *packs) do(ctx context.Context, path storepath.Path, hash nixhash.Hash, f func() (*narinfo.NarInfo, error)) (*narinfo.NarInfo, error) {
	key := packKey{path, hash}
	for {
		p.mu.Lock()
		other := p.under[key]
		if other == nil {
			break
		}
		p.mu.Unlock()
		select {
		case <-other.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if other.err == nil {
			return other.info, nil
		}
	}
	mine := &packing{done: make(chan struct{})}
	if p.under == nil {
		p.under = map[packKey]*packing{}
	}
	p.under[key] = mine
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.under, key)
		p.mu.Unlock()
		close(mine.done)
	}()
	mine.info, mine.err = f()
	return mine.info, mine.err
}
