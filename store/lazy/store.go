package lazy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Store is a store whose objects arrive when they are read.
type Store struct {
	o       Options
	from    []*origin // as in the options
	count   counters
	health  health
	through through
	absent  absent
	early   early
	lies    struct {
		mu    sync.Mutex
		paths map[string]bool // objects whose indexes were wrong
	}

	ranking sync.Mutex
	ranked  []*origin // by priority; nil: not known yet
}

// The abilities.
var _ interface {
	store.Store
	store.Directory
	store.Lister
	store.NarOpener
	store.NarSource
	store.HashPartQuerier
	store.ReferrerQuerier
	store.DeriverQuerier
	store.RealisationQuerier
	store.Truster
	store.Fronted
	store.Appearing
} = (*Store)(nil)

// origin is one of the options' with what is known of it.
type origin struct {
	Origin
	indexes  asking
	unsigned atomic.Bool  // somebody has been told that it has what no key has signed
	rest     atomic.Int64 // until then it is asked last, in nanoseconds since 1970
}

// Open makes a store. It asks nobody anything, so that a store can be opened whose
// origins are down.
func Open(o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	for _, from := range o.Origins {
		if from.Store.Dir() != o.Dir {
			return nil, fmt.Errorf("'%s' is for the store directory '%s', and the lazy store for '%s'; they must be the same", from.Store.URI(), from.Store.Dir(), o.Dir)
		}
		_, opener := store.As[store.NarOpener](from.Store)
		_, source := store.As[store.NarSource](from.Store)
		if !opener && !source {
			return nil, &store.UnsupportedError{Op: "giving the contents of objects", Store: from.Store.URI()}
		}
	}
	s := &Store{o: o}
	for _, from := range o.Origins {
		s.from = append(s.from, &origin{Origin: from})
	}
	return s, nil
}

// Dir is the store directory.
func (s *Store) Dir() storepath.Dir { return s.o.Dir }

// URI is that of the options.
func (s *Store) URI() string { return s.o.URI }

// RealDir is the mount.
func (s *Store) RealDir() string { return s.o.Mount }

// Cache is that of the options.
func (s *Store) Cache() *Cache { return s.o.Cache }

// FrontDirs is where complete objects are, if they may be read there.
func (s *Store) FrontDirs() []string {
	if !s.o.Graduate {
		return nil
	}
	return []string{s.o.Cache.Objects()}
}

// Close does nothing: what the store uses belongs to others.
func (s *Store) Close() error { return nil }

// Trust is none: there is nothing to be written.
func (s *Store) Trust(context.Context) (store.Trust, error) { return store.NotTrusted, nil }

// ValidPaths gives those of paths that are valid.
func (s *Store) ValidPaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	infos, err := s.PathInfos(ctx, paths)
	var valid []storepath.Path
	for i, info := range infos {
		if info != nil {
			valid = append(valid, paths[i])
		}
	}
	return valid, err
}

// AllPaths lists what is valid as far as it is known: all of a scope, or else what is
// here.
func (s *Store) AllPaths(ctx context.Context) iter.Seq2[storepath.Path, error] {
	return func(yield func(storepath.Path, error) bool) {
		var all []storepath.Path
		var err error
		if s.o.Scope != nil {
			var in storepath.Set
			in, err = s.o.Scope.members(ctx, s)
			all = in.Sorted()
		} else if all, err = s.o.Cache.List(); err == nil {
			all, err = s.ValidPaths(ctx, all)
		}
		if err != nil {
			yield(storepath.Path{}, err)
			return
		}
		for _, p := range all {
			if !yield(p, nil) {
				return
			}
		}
	}
}

// NarFromPath writes the NAR of a valid path to w.
func (s *Store) NarFromPath(ctx context.Context, p storepath.Path, w io.Writer) error {
	r, err := s.OpenNar(ctx, p)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, r.Close())
}

// OpenNar opens the NAR of a valid path: of the object that is here, or that of an origin,
// which is not kept.
func (s *Store) OpenNar(ctx context.Context, p storepath.Path) (io.ReadCloser, error) {
	info, err := store.PathInfoOf(ctx, s, p)
	if err != nil {
		return nil, err
	}
	if s.o.Cache.Has(p) {
		r, w := io.Pipe()
		go func() { _ = w.CloseWithError(s.dump(ctx, info, w)) }()
		return r, nil
	}
	return s.openAnywhere(ctx, info)
}

// openAnywhere opens the NAR of an object that is not here.
func (s *Store) openAnywhere(ctx context.Context, info *store.PathInfo) (io.ReadCloser, error) {
	errs := []error{}
	for _, from := range s.origins(ctx) {
		r, err := s.openFrom(ctx, from, info)
		if err == nil {
			return r, nil
		}
		errs = append(errs, err)
	}
	return nil, s.unavailable(info.Path, errs)
}

// dump writes the NAR of an object that is here. It may be just being published, or evicted before its first byte was
// written; after that it is in use.
func (s *Store) dump(ctx context.Context, info *store.PathInfo, w io.Writer) error {
	c, base := s.o.Cache, info.Path.Base()
	out := &begun{Writer: w}
	dumped := func(dir string) (bool, error) {
		err := nar.Dump(ctx, out, filepath.Join(dir, base))
		return out.yes || !errors.Is(err, fs.ErrNotExist), err
	}
	if stage, ok := c.stagedAt(info.Path); ok {
		if done, err := dumped(stage); done {
			return err
		}
	}
	if done, err := dumped(c.Objects()); done {
		return err
	}
	r, err := s.openAnywhere(ctx, info)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, r.Close())
}

// begun notes whether something was written.
type begun struct {
	io.Writer
	yes bool
}

func (b *begun) Write(p []byte) (int, error) {
	b.yes = true
	return b.Writer.Write(p)
}

// openFrom opens the NAR of an object at one origin, if that has this very object.
func (s *Store) openFrom(ctx context.Context, from *origin, info *store.PathInfo) (io.ReadCloser, error) {
	theirs, err := store.PathInfoOf(ctx, from.Store, info.Path)
	if err != nil {
		return nil, err
	}
	if theirs.NarHash != info.NarHash || theirs.NarSize != info.NarSize {
		return nil, fmt.Errorf("'%s' has another object by the name '%s'", from.Store.URI(), info.Path)
	}
	return store.OpenNar(ctx, from.Store, info.Path)
}

// PathFromHashPart completes a hash part.
func (s *Store) PathFromHashPart(ctx context.Context, hashPart string) (storepath.Path, error) {
	if err := storepath.CheckHashPart(hashPart); err != nil {
		return storepath.Path{}, err
	}
	var errs []error
	for _, from := range s.origins(ctx) {
		q, ok := store.As[store.HashPartQuerier](from.Store)
		if !ok {
			continue
		}
		p, err := question(ctx, s, from, 1, func(ctx context.Context) (storepath.Path, error) { return q.PathFromHashPart(ctx, hashPart) })
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if p.IsZero() {
			continue
		}
		if valid, err := s.ValidPaths(ctx, []storepath.Path{p}); err != nil || len(valid) > 0 {
			return p, err
		}
	}
	if p := s.o.Cache.fromHashPart(hashPart); !p.IsZero() {
		valid, err := s.ValidPaths(ctx, []storepath.Path{p})
		if err == nil && len(valid) > 0 {
			return p, nil
		}
	}
	return storepath.Path{}, errors.Join(errs...)
}

// Referrers gives those that are known: a cache is not asked backwards. Nothing is ever
// deleted from a lazy store, so that nobody relies on their being all.
func (s *Store) Referrers(ctx context.Context, paths []storepath.Path) ([][]storepath.Path, error) {
	lists := make([][]storepath.Path, len(paths))
	if s.o.Scope == nil {
		return lists, nil
	}
	all, err := s.o.Scope.members(ctx, s)
	if err != nil {
		return nil, err
	}
	infos, err := s.PathInfos(ctx, all.Sorted())
	if err != nil {
		return nil, err
	}
	at := make(map[storepath.Path][]int, len(paths))
	for i, p := range paths {
		at[p] = append(at[p], i)
	}
	for _, info := range infos {
		if info == nil {
			continue
		}
		for _, r := range info.References {
			for _, i := range at[r] {
				lists[i] = append(lists[i], info.Path)
			}
		}
	}
	for _, l := range lists {
		slices.SortFunc(l, storepath.Compare)
	}
	return lists, nil
}

// ValidDerivers gives the derivation that an object's info names, if it is valid.
func (s *Store) ValidDerivers(ctx context.Context, p storepath.Path) ([]storepath.Path, error) {
	infos, err := s.PathInfos(ctx, []storepath.Path{p})
	if err != nil || infos[0] == nil || infos[0].Deriver.IsZero() {
		return nil, err
	}
	return s.ValidPaths(ctx, []storepath.Path{infos[0].Deriver})
}

// Realisations gives those that an origin has and that can be believed.
func (s *Store) Realisations(ctx context.Context, ids []store.DrvOutput) ([]*store.Realisation, error) {
	out := make([]*store.Realisation, len(ids))
	for _, from := range s.origins(ctx) {
		q, ok := store.As[store.RealisationQuerier](from.Store)
		if !ok {
			continue
		}
		found, err := question(ctx, s, from, len(ids), func(ctx context.Context) ([]*store.Realisation, error) { return q.Realisations(ctx, ids) })
		if err != nil {
			return nil, err
		}
		for i, r := range found {
			if r != nil && out[i] == nil && (from.Trusted || s.o.NoSignatures || s.o.Keys.CountValidRealisation(r) > 0) {
				out[i] = r
			}
		}
	}
	return out, nil
}
