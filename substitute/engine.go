package substitute

import (
	"context"
	"sync"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Engine gets objects for one store. It is for any number of goroutines.
type Engine struct {
	pool     *Pool
	dest     store.Store
	settings Settings
	board    *board    // of all engines of the store
	told     *sync.Map // URIs of which somebody has heard that they cannot be used
}

// New makes the engine of a store. A nil pool has no sources. The engine holds
// nothing that would have to be given back.
func New(pool *Pool, dest store.Store, s Settings) *Engine {
	return &Engine{pool: pool, dest: dest, settings: s, board: newBoard(), told: new(sync.Map)}
}

// With is the engine of a view of the same store with other settings. The two
// share what is under way.
func (e *Engine) With(dest store.Store, s Settings) *Engine {
	return &Engine{pool: e.pool, dest: dest, settings: s, board: e.board, told: new(sync.Map)}
}

// Settings are those that the engine was made with.
func (e *Engine) Settings() Settings { return e.settings }

// Sources gives the sources in the order in which they are asked. One that cannot
// be opened is told as a warning, once for each view, and passed over.
func (e *Engine) Sources(ctx context.Context) ([]Source, error) {
	sources, _, err := e.open(ctx)
	return sources, err
}

// open gives the sources as Sources does, and those that cannot be opened.
func (e *Engine) open(ctx context.Context) (sources []Source, failed []*OpenError, err error) {
	if e.settings.Off {
		return nil, nil, nil
	}
	sources, failed, err = e.pool.Sources(ctx, e.settings.URIs)
	for _, f := range failed {
		if _, known := e.told.LoadOrStore(f.URI, true); !known {
			activity.WarnOf(ctx, f)
		}
	}
	return sources, failed, err
}

// Wanted is a path that somebody wants to have.
type Wanted struct {
	Path storepath.Path
	// CA is its content address if that is known beforehand, as that of the output of
	// a fixed-output derivation is; such a path may come from a store with another
	// directory.
	CA storepath.ContentAddress
}

// Opaque wants paths of which nothing is known.
func Opaque(paths ...storepath.Path) []Wanted {
	out := make([]Wanted, len(paths))
	for i, p := range paths {
		out[i].Path = p
	}
	return out
}

func pathsOf(wanted []Wanted) []storepath.Path {
	out := make([]storepath.Path, len(wanted))
	for i, w := range wanted {
		out[i] = w.Path
	}
	return out
}

// trusts tells whether an object may come in from a source without anybody else
// vouching for it.
func (e *Engine) trusts(s *Source, info *store.PathInfo) bool {
	return !e.settings.RequireSigs || s.Trusted || info.IsContentAddressed(e.dest.Dir()) ||
		e.settings.TrustedKeys.CountValid(info, e.dest.Dir()) > 0
}
