package substitute

import (
	"context"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Engine gets objects for one store. It is for any number of goroutines.
type Engine struct {
	pool     *Pool
	dest     store.Store
	settings Settings
}

// New makes the engine of a store. pool may be nil: there are no sources then. The
// engine holds nothing that would have to be given back.
func New(pool *Pool, dest store.Store, s Settings) *Engine {
	return &Engine{pool: pool, dest: dest, settings: s}
}

// With is the engine of a view of the same store with other settings. The two
// share what is under way.
func (e *Engine) With(dest store.Store, s Settings) *Engine {
	c := *e
	c.dest, c.settings = dest, s
	return &c
}

// Settings are those that the engine was made with.
func (e *Engine) Settings() Settings { return e.settings }

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

// Plan is what it would take to make paths valid.
type Plan struct {
	// Infos are what would be substituted, references first, with what the sources
	// say of it. A path may be among them although some of what it refers to is in Unknown.
	Infos []*store.PathInfo
	// Unknown are paths that are neither valid nor to be had, sorted.
	Unknown []storepath.Path
	// DownloadSize is how many bytes have to travel, NarSize how many that is as
	// NARs, as far as sources tell.
	DownloadSize, NarSize uint64
}

// Has tells whether a path would be substituted.
func (p *Plan) Has(path storepath.Path) bool { panic("filled in next") }

// Plan finds out what it takes to make paths valid with their closures. It
// changes nothing. Without Settings.Fallback it is an error when the last source that
// could have had a path cannot be asked.
func (e *Engine) Plan(ctx context.Context, wanted []Wanted) (*Plan, error) { panic("filled in next") }

// Options say how paths are substituted.
type Options struct {
	// Repair replaces the wanted paths although they are valid; what they refer to
	// is left alone if it is valid.
	Repair bool
	// Roots, if not nil, gets each path before anything of it is on disk.
	Roots store.TempRoots
	// Observe, if not nil, hears how far it is, one call at a time, instead of
	// activities of type Realise and CopyPaths that the engine would start itself.
	Observe func(Count)
}

// Count is how far a substitution is.
type Count struct {
	Done     uint64 // paths that have come
	Expected uint64 // paths in all, those that failed left out
	Running  uint64
	Failed   uint64
	Download uint64 // bytes that travel in all
	Nar      uint64 // bytes of NARs in all
}

// Result is the outcome for a wanted path.
type Result struct {
	Path storepath.Path
	// Status is Substituted, AlreadyValid, NoSubstituters or DependencyFailed.
	Status store.BuildStatus
	// Failed tells of a path that is not valid now that it, or what it refers to, could have
	// been had, but its sources failed. Stock Nix does not go on to build it then,
	// unless `fallback` is set.
	Failed bool
	// Err says why the path is not valid.
	Err error
}

// Substitute makes paths valid with their closures, as far as that can be done.
// There is a result for each of wanted, in their order. The error is for what
// concerns no single path: the destination fails, or ctx ends.
func (e *Engine) Substitute(ctx context.Context, wanted []Wanted, o Options) ([]Result, error) {
	panic("filled in next")
}

// SubstitutablePaths gives those of paths that sources have which can be asked
// about many ([Source.MassQuery]), valid here or not.
func (e *Engine) SubstitutablePaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	panic("filled in next")
}

// Substitutables gives what sources know of each path, nil where none has it,
// see [store.SubstituterQuerier].
func (e *Engine) Substitutables(ctx context.Context, wanted []Wanted) ([]*store.Substitutable, error) {
	panic("filled in next")
}

// Realisations gives what sources know of outputs of content-addressed derivations, nil
// where none of them does. One that no trusted key has signed counts as little as
// an object.
func (e *Engine) Realisations(ctx context.Context, ids []store.DrvOutput) ([]*store.Realisation, error) {
	panic("filled in next")
}

// SubstituteRealisations finds realisations in sources, makes their paths valid, and then
// registers them, with those that they depend on. There is a result for each of
// ids, in their order, and the realisation where its Status is OK. Of one that no
// source knows the status is NoSubstituters. What the destination knows is
// AlreadyValid if its path is valid too.
func (e *Engine) SubstituteRealisations(ctx context.Context, ids []store.DrvOutput, o Options) ([]Result, []*store.Realisation, error) {
	panic("filled in next")
}
