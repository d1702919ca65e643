package binarycache

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/strata-nix/strata/narinfo"
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
	defer s.packs.join(imports)()
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
	get := func() (*narinfo.NarInfo, error) { return s.pack(ctx, offer.Info, offer.Open, repair) }
	if repair {
		return get()
	}
	return s.packs.do(ctx, p, offer.Info.NarHash, get)
}
