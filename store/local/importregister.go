package local

import (
	"context"
	"time"

	"github.com/strata-nix/strata/store"
)

// maxTransaction bounds the objects of one transaction, so that other writers get
// a turn.
const maxTransaction = 1024

// What is ready waits for more to be registered with, until it is so many objects, or so
// long. Their locks are held meanwhile, of which there are at most maxHeld.
const (
	goodTransaction = maxHeld / 2
	readyAge        = 50 * time.Millisecond
)

// register begins to put what is ready in place, and to register it.
func (im *importer) register(ctx context.Context) {
	n := min(len(im.ready), maxTransaction)
	batch := make([]*object, 0, n)
	for _, o := range im.ready[:n] {
		if o.state == ready { // it may have failed meanwhile
			o.state = registering
			batch = append(batch, o)
		}
	}
	im.ready = im.ready[n:]
	if len(batch) == 0 {
		return
	}
	im.writing = true
	go func() {
		errs := im.s.installAll(ctx, batch)
		im.events <- func() { im.registered(batch, errs) }
	}()
}

// registered goes on after a transaction.
func (im *importer) registered(batch []*object, errs []error) {
	im.writing = false
	for i, o := range batch {
		switch {
		case o.state != registering: // it refers to one before it that has failed
		case errs[i] == nil:
			im.arrived(o, &o.offers[0])
		case isFatal(errs[i]):
			im.stop(errs[i])
		default:
			o.errs = append(o.errs, errs[i])
			im.fail(o)
		}
	}
}

// installAll puts objects in place and registers them, together if that can be, else
// each for itself: then what is wrong with one is not held against the others.
func (s *Store) installAll(ctx context.Context, batch []*object) []error {
	errs := make([]error, len(batch))
	var infos []*store.PathInfo
	var where []int
	for i, o := range batch {
		if errs[i] = s.install(ctx, o.path, o.imp.Path); errs[i] == nil {
			infos, where = append(infos, o.offers[0].Info), append(where, i)
		}
	}
	err := s.Register(ctx, infos)
	if err == nil {
		return errs
	}
	alone := len(infos) > 1 && !isFatal(err)
	for n, i := range where {
		if errs[i] = err; alone {
			errs[i] = s.Register(ctx, infos[n:n+1])
		}
		if errs[i] != nil {
			s.withdraw(ctx, infos[n:n+1])
		}
	}
	return errs
}
