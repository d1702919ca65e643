// Package store has the words of strata and its interfaces, and implements
// nothing.
//
// A [Store] answers what is valid. What else a particular store can do is found
// by its type, through wrappers, with [As]; the abilities are interfaces of one
// to three methods, listed in the files reading.go, writing.go, importing.go,
// closure.go, garbage.go and building.go. A missing ability is answered with [ErrUnsupported], never with
// a pretended success.
//
// Everything takes sets of paths: one request, one SQL statement, one
// transaction for a set, never one for a path.
//
// Presence has three answers. A path is valid, or it is not valid, or a store
// could not tell; the third is always an error of the whole request. Nobody may
// delete, drop or rebuild anything after an error.
//
// Unless a method says otherwise, everything here may be used by any number of
// goroutines at once, and a canceled context ends a call with its error.
package store

import (
	"context"
	"iter"

	"github.com/strata-nix/strata/storepath"
)

// Store is what every store is.
type Store interface {
	Querier

	// Dir is the store directory that the paths of this store are printed with.
	Dir() storepath.Dir
	// URI names the store, as `--store` would take it.
	URI() string
	// Close gives everything back. The store must not be used afterwards, and no
	// call may be under way.
	Close() error
}

// Querier answers what is valid.
type Querier interface {
	// ValidPaths gives those of paths that are valid, in the order asked.
	ValidPaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error)
	// PathInfos gives one answer for each of paths, in their order: nil for a path
	// that is not valid. The infos may be shared; nobody may change them. With a
	// [PartialError] the answers are right for all paths that it does not name.
	PathInfos(ctx context.Context, paths []storepath.Path) ([]*PathInfo, error)
}

// Lister lists everything. On a layered store that is the upper layer, as in
// Nix; see [Layered] for the rest.
type Lister interface {
	// AllPaths lists the valid paths, in no particular order, as of one moment. An
	// error ends the sequence.
	AllPaths(ctx context.Context) iter.Seq2[storepath.Path, error]
}

// BulkLister is a [Lister] that can give all paths at once, in little memory. Who has
// found a Lister asks that very value whether it is one.
type BulkLister interface {
	Lister
	// ListPaths gives the valid paths as of one moment. The list may be shared: it
	// must not be added to.
	ListPaths(ctx context.Context) (*storepath.List, error)
}

// InfoLister lists everything with its infos, in an order in which references
// need not come first.
type InfoLister interface {
	AllPathInfos(ctx context.Context) iter.Seq2[*PathInfo, error]
}

// As finds the ability T of a store: of the store itself, or of what it wraps.
// A wrapper is anything with a method Unwrap() Store.
func As[T any](s Store) (T, bool) {
	for s != nil {
		if t, ok := s.(T); ok {
			return t, true
		}
		w, ok := s.(interface{ Unwrap() Store })
		if !ok {
			break
		}
		s = w.Unwrap()
	}
	var none T
	return none, false
}

// Need is As with the error that a caller would make of a missing ability. op is
// the operation as its user knows it.
func Need[T any](s Store, op string) (T, error) {
	t, ok := As[T](s)
	if !ok {
		return t, &UnsupportedError{Op: op, Store: s.URI()}
	}
	return t, nil
}

// PathInfoOf asks for one path that must be valid: an [InvalidPathError] says
// that it is not.
func PathInfoOf(ctx context.Context, s Store, p storepath.Path) (*PathInfo, error) {
	infos, err := s.PathInfos(ctx, []storepath.Path{p})
	if err != nil {
		return nil, err
	}
	if infos[0] == nil {
		return nil, &InvalidPathError{Path: s.Dir().Print(p)}
	}
	return infos[0], nil
}
