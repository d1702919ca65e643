package binarycache

import (
	"context"
	"sync"

	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// packs are the NARs that imports which are under way have put into the cache, so
// that what two want is fetched once. The zero value has none.
type packs struct {
	mu    sync.Mutex
	under map[storepath.Path]*packed
}

// packed is a path that imports want.
type packed struct {
	wanted int              // by so many imports; it is forgotten with the last
	turn   lock             // who has it may fetch the object
	info   *narinfo.NarInfo // what that gave; nil: nothing yet
}

// join notes what an import wants, before it asks what is there: so it finds either
// that a path is valid, or what another import has got meanwhile. leave must be called
// at its end.
func (p *packs) join(imports []store.Import) (leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.under == nil {
		p.under = map[storepath.Path]*packed{}
	}
	for i := range imports {
		e := p.under[imports[i].Path]
		if e == nil {
			e = &packed{turn: newLock()}
			p.under[imports[i].Path] = e
		}
		e.wanted++
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for i := range imports {
			if e := p.under[imports[i].Path]; e.wanted > 1 {
				e.wanted--
			} else {
				delete(p.under, imports[i].Path)
			}
		}
	}
}

// do gives what has been got of a path that an import has joined for, or else what f
// gets. One f runs for a path at a time.
func (p *packs) do(ctx context.Context, path storepath.Path, hash nixhash.Hash, f func() (*narinfo.NarInfo, error)) (*narinfo.NarInfo, error) {
	p.mu.Lock()
	e := p.under[path]
	p.mu.Unlock()
	if err := e.turn.acquire(ctx); err != nil {
		return nil, err
	}
	defer e.turn.release()
	if e.info != nil && e.info.NarHash == hash {
		return e.info, nil
	}
	info, err := f()
	if err == nil {
		e.info = info
	}
	return info, err
}
