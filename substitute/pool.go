package substitute

import (
	"context"

	"github.com/strata-nix/strata/store"
)

// Opener opens the store of a URI.
type Opener func(ctx context.Context, uri string) (store.Store, error)

// Pool opens sources when they are first wanted, and keeps them until Close. It
// is for any number of goroutines, and of engines.
type Pool struct {
	open Opener
}

// NewPool makes a pool. It opens nothing yet.
func NewPool(open Opener) *Pool { return &Pool{open: open} }

// Sources gives the sources that can be used of those with the given URIs: by
// priority, and as given where that is equal. One that cannot be opened is told
// as a warning and passed over; it is tried again when it is wanted a minute later. The
// error is only that of ctx.
//
// The stores belong to the pool.
func (p *Pool) Sources(ctx context.Context, uris []string) ([]Source, error) { panic("filled in next") }

// Close closes the sources. No request may be under way.
func (p *Pool) Close() error { panic("filled in next") }
