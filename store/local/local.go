// Package local is the store that Nix calls local: a directory of objects and
// Nix's database about them.
//
// It is a drop-in for a Nix process: database schema, locks, temporary roots,
// gc roots and build logs are where and what Nix has them, so that both may work
// on one store at the same moment. Opened read-only it writes nothing at all, and
// works from read-only media.
//
// Nothing is held open inside of the store directory between calls, so that its
// owner can unmount or remount it. The directories may be deleted and made anew
// under an open store; the next call goes on with what is there then.
//
// How an object comes in: its path becomes a temporary root; the lock
// <path>.lock is taken; the NAR is unpacked under [gc.TempName] in the store
// directory while it is hashed; what is right is renamed into place and then
// registered. After a crash at any point there are at most garbage files, which
// the next opening or collection removes.
//
// A layered store is built on this one, see [Layering].
package local

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/builder"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
)

// Layering is what a layered store decides differently. The zero value decides
// as a plain store does.
type Layering struct {
	// Lower answers for what is valid below this store, nil if nothing is.
	Lower store.Querier
	// Lean is told, before they are registered here, what paths of the store below are
	// leaned on from now on; its error keeps that from happening. nil: nobody wants to
	// know.
	Lean func(ctx context.Context, infos []*store.PathInfo) error
	// Deletable is the directory of the objects that this store may delete; Real
	// unless set. (The upper layer, when Real is a merged directory.)
	Deletable string
	// Aside moves entries of the store directory away before they are deleted, see
	// gc.Parts; nil: it takes a rename.
	Aside func(ctx context.Context, moves []gc.Move)
	// Remove deletes entries of the store directory and tells how many bytes left
	// the disk; removing the tree from Real unless set.
	Remove func(ctx context.Context, names []string) (freed uint64, err error)
	// Deleting is called before objects are deleted, and done when they are, whatever
	// came of it; nil: there is nothing to be done.
	Deleting func(ctx context.Context) (done func() error)
	// OwnLinks is called before equal files are made one: the directory .links in Real must
	// show what is in that of Deletable and nothing else. nil: it does.
	OwnLinks func(ctx context.Context) error
	// Guard is asked before anything is written or deleted; its error is the
	// answer. nil: nothing can be wrong. (The mount at Real, which others may take
	// away, and then what lies under it must not be written to.)
	Guard func() error
}

// Store is an open local store.
type Store struct {
	*shared
	opts   Options // those that a client may override
	chosen *chosen // what came of overriding them; nil for a view
	engine *substitute.Engine
}

// shared is what views of one store have in common.
type shared struct {
	db     *nixdb.DB
	dir    storepath.Dir
	real   string
	state  string
	log    string
	uri    string
	layer  Layering
	builds *builder.Builder
	hashes *derivation.Hasher // of valid derivations
	auto   *autoGC
	view   bool // closing it does nothing

	tempRoot *tempRoot
}

// Every ability of a local store.
var _ interface {
	store.Store
	store.Lister
	store.InfoLister
	store.ReferrerQuerier
	store.DeriverQuerier
	store.OutputQuerier
	store.HashPartQuerier
	store.NarSource
	store.Directory
	store.RealisationQuerier
	store.LogQuerier
	store.SubstituterQuerier
	store.Truster
	store.Adder
	store.MultiAdder
	store.Importer
	store.DumpAdder
	store.Registrar
	store.SignatureAdder
	store.RealisationRegistrar
	store.LogAdder
	store.Overridable
	store.TempRooter
	store.RootKeeper
	store.Collector
	store.Explainer
	store.Verifier
	store.Planner
	store.Ensurer
	store.Builder
	store.DerivationBuilder
} = (*Store)(nil)

// Open opens a store, which it makes if it is not there and not ReadOnly.
func Open(ctx context.Context, o Options) (*Store, error) {
	return OpenLayered(ctx, o, Layering{})
}

// OpenLayered opens a store as the upper part of a layered one.
func OpenLayered(ctx context.Context, o Options, l Layering) (*Store, error) {
	o = o.resolved()
	s := &Store{opts: o, chosen: new(chosen), shared: &shared{dir: o.Dir, real: o.Real, state: o.State, log: o.Log, uri: o.URI, layer: l, auto: newAutoGC(), tempRoot: new(tempRoot)}}
	if s.layer.Deletable == "" {
		s.layer.Deletable = s.real
	}
	if s.layer.Remove == nil {
		s.layer.Remove = s.removeTrees
	}
	if !o.ReadOnly {
		if err := s.makePlaces(); err != nil {
			return nil, fmt.Errorf("opening store '%s': %w", o.URI, err)
		}
	}
	db, err := nixdb.Open(ctx, filepath.Join(o.State, "db"), nixdb.Options{
		Dir: o.Dir, ReadOnly: o.ReadOnly, NoWAL: o.NoWAL, NoSync: o.NoSync, Realisations: o.CADerivations,
	})
	if err != nil {
		return nil, fmt.Errorf("opening store '%s': %w", o.URI, err)
	}
	s.db = db
	s.engine = substitute.New(o.Pool, s, o.substitution())
	s.builds = builder.New(nil)
	s.hashes = derivation.NewHasher(s.dir, s.validDerivation)
	if !o.ReadOnly {
		s.clearLeftovers()
	}
	return s, nil
}

// Close closes the database.
func (s *Store) Close() error {
	if s.view {
		return nil
	}
	s.auto.end()
	return s.db.Close()
}

// Dir is the logical store directory.
func (s *Store) Dir() storepath.Dir { return s.dir }

// URI is what the store was opened as.
func (s *Store) URI() string { return s.uri }

// RealDir is where the objects are.
func (s *Store) RealDir() string { return s.real }

// Trust is full: whoever can open the files needs no permission from us.
func (s *Store) Trust(context.Context) (store.Trust, error) { return store.Trusted, nil }

// Override gives a view with other settings, see overrides.
func (s *Store) Override(settings map[string]string) (store.Store, error) {
	o, err := s.chosen.override(s.opts, settings)
	common := *s.shared
	return s.viewOf(common, o), err
}

// Own is the store without what lies below it: its database alone. Closing it
// does nothing.
func (s *Store) Own() *Store {
	common := *s.shared
	common.layer.Lower = nil
	return s.viewOf(common, s.opts)
}

// viewOf is another look at the same store.
func (s *Store) viewOf(common shared, o Options) *Store {
	common.view = true
	v := &Store{shared: &common, opts: o}
	v.engine = s.engine.With(v, o.substitution())
	return v
}

// realPath is where an object is.
func (s *Store) realPath(p storepath.Path) string { return filepath.Join(s.real, p.Base()) }

// writable is the error of an attempt to write to a store that is not for it.
func (s *Store) writable() error {
	if s.opts.ReadOnly {
		return fmt.Errorf("store '%s': %w", s.uri, store.ErrReadOnly)
	}
	if s.layer.Guard != nil {
		if err := s.layer.Guard(); err != nil {
			return err
		}
	}
	return s.prepare()
}

// hold is writable for what takes long and would take objects for lost that do
// not show: until release nobody can unmount the store directory.
func (s *Store) hold() (release func(), err error) {
	if s.layer.Guard != nil && !s.opts.ReadOnly {
		d, err := os.OpenFile(s.real, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, fmt.Errorf("opening the store directory: %w", err)
		}
		release = func() { _ = d.Close() } // nothing was written to it
	} else {
		release = func() {}
	}
	// What is held is what is checked.
	if err := s.writable(); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// ValidPaths tells which are valid, here or below.
func (s *Store) ValidPaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	if s.layer.Lower == nil {
		return s.db.ValidPaths(ctx, paths)
	}
	here, err := s.db.ValidPaths(ctx, paths)
	if err != nil || len(here) == len(paths) {
		return here, err
	}
	have := storepath.NewSet(here...)
	below, err := s.layer.Lower.ValidPaths(ctx, have.Missing(paths))
	if err != nil {
		return nil, err
	}
	for _, p := range below {
		have.Add(p)
	}
	all := make([]storepath.Path, 0, len(have))
	for _, p := range paths {
		if have.Has(p) {
			all = append(all, p)
		}
	}
	return all, nil
}

// PathInfos asks the database, then what lies below.
func (s *Store) PathInfos(ctx context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	infos, err := s.db.PathInfos(ctx, paths)
	if err != nil || s.layer.Lower == nil {
		return infos, err
	}
	var rest []storepath.Path
	var where []int
	for i, info := range infos {
		if info == nil {
			rest, where = append(rest, paths[i]), append(where, i)
		}
	}
	if len(rest) == 0 {
		return infos, nil
	}
	below, err := s.layer.Lower.PathInfos(ctx, rest)
	if err != nil {
		return nil, err
	}
	for n, i := range where {
		infos[i] = below[n]
	}
	return infos, nil
}

// isValid asks for one path.
func (s *Store) isValid(ctx context.Context, p storepath.Path) (bool, error) {
	v, err := s.ValidPaths(ctx, []storepath.Path{p})
	return len(v) > 0, err
}

// AllPaths lists the database.
func (s *Store) AllPaths(ctx context.Context) iter.Seq2[storepath.Path, error] {
	return s.db.AllPaths(ctx)
}

// ListPaths implements store.BulkLister.
func (s *Store) ListPaths(ctx context.Context) (*storepath.List, error) { return s.db.ListPaths(ctx) }

// AllPathInfos lists the database.
func (s *Store) AllPathInfos(ctx context.Context) iter.Seq2[*store.PathInfo, error] {
	return s.db.AllPathInfos(ctx)
}

// DB is the database, for what is built on this store.
func (s *Store) DB() *nixdb.DB { return s.db }

// StateDir is where locks and roots are.
func (s *Store) StateDir() string { return s.state }

// LogDir is where build logs are.
func (s *Store) LogDir() string { return s.log }

// removeTrees deletes entries of the store directory.
func (s *Store) removeTrees(ctx context.Context, names []string) (freed uint64, err error) {
	for _, n := range names {
		f, rmErr := removeTree(ctx, filepath.Join(s.real, n))
		freed += f
		if rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}
	return freed, err
}
