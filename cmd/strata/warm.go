package main

import (
	"context"
	"sync"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// warm asks the database of a store, of a layered one that of its upper, about an object that there
// is not, so that what a first answer needs is there when the first client asks. What is wrong
// with it that client hears. Lowers, which show nothing but what reads objects, are not asked. The returned function waits for the end of it.
func warm(ctx context.Context, st store.Store) (wait func()) {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	for _, db := range databases(st) {
		asking.Go(func() {
			if p, err := storepath.FromParts(make([]byte, 20), "x"); err == nil {
				_, _ = db.ValidPaths(ctx, []storepath.Path{p})
			}
		})
	}
	return func() {
		cancel()
		asking.Wait()
	}
}

// databases are those that a store lets be seen.
func databases(st store.Store) []*nixdb.DB {
	var all []*nixdb.DB
	if l, ok := store.As[store.Layered](st); ok {
		for _, layer := range l.Layers() {
			all = append(all, databases(layer.Store)...)
		}
		return all
	}
	if d, ok := store.As[interface{ DB() *nixdb.DB }](st); ok {
		all = append(all, d.DB())
	}
	return all
}
