// Package overlay is a store of layers: a writable upper layer over any number
// of lower stores, whose objects the kernel's OverlayFS shows in one directory.
//
// It is Nix's local-overlay store with several lowers. The upper is a
// store/local whose real directory is the merged one; this package answers for
// what is between the layers:
//
//   - valid(p): in the upper's database, or in a lower, first wins. Asking
//     writes nothing.
//   - Registering copies up, in the same transaction, the metadata of what the
//     new objects lean on and only a lower has, so that the upper's database
//     is whole by itself.
//   - Adding what any layer has is a no-op on disk.
//   - Deleting touches the upper alone, and leaves no whiteout where a lower
//     has the object: its copy is seen afterwards.
//   - A lower is never written. It may grow behind our back; nothing of it is
//     remembered here.
//
// That a lower could not be asked is an error that names it, never "not valid".
// An object that a lower has by its database and that cannot be read is a
// store.DamageError.
//
// Caveats: nothing is held open in the merged directory between calls. A lower
// must be a store whose objects are files here (store.Directory). Two overlays
// must not share an upper layer.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/storepath"
)

// Options say how a layered store is opened.
type Options struct {
	// Upper is the upper layer's own store: its Real is the merged directory, its
	// State and Log those of the upper.
	Upper local.Options
	// UpperLayer is the directory that OverlayFS writes to ("upper-layer").
	UpperLayer string
	// NoCheckMount opens the store although the mount may be wrong ("check-mount" is
	// false).
	NoCheckMount bool
	// Tolerant opens the store for reading only if the mount is wrong, instead of not at
	// all: to find out what is wrong with it.
	Tolerant bool
	// RemountHook is a program that remounts the merged directory, which it gets as
	// its argument, when a lower's object has to show again ("remount-hook"). Without
	// one strata refreshes the mount itself.
	RemountHook string
	// Lean is told, before the upper leans on paths of a lower (by its number from 0)
	// that it did not lean on before; its error keeps that from happening. nil: nobody
	// wants to know.
	Lean func(ctx context.Context, lower int, paths []storepath.Path) error
	// Collected is called when a collection of garbage has ended, whoever asked for it: the
	// upper may lean on less. It must not wait for anything. nil: nobody wants to know.
	Collected func()
}

// Store is an open layered store.
type Store struct {
	*local.Store // the upper, which knows what lies below
	*below
	opts   Options
	stale  *atomic.Bool // a lower's object does not show yet
	growth *growth
	links  *ownedLinks
	view   bool
}

var _ interface {
	store.Layered
	store.Overridable
	store.Optimiser
	store.Planner
	store.Builder
	store.Collector
	store.Explainer
} = (*Store)(nil)

// Open opens a layered store over the lowers, first wins. It closes them, also
// when it fails.
func Open(ctx context.Context, o Options, lowerStores []store.Store) (*Store, error) {
	ls, err := newLowers(lowerStores)
	if err == nil {
		var s *Store
		if s, err = open(ctx, o, ls); err == nil {
			return s, nil
		}
	}
	for _, l := range lowerStores {
		err = errors.Join(err, l.Close())
	}
	return nil, err
}

func open(ctx context.Context, o Options, ls lowers) (*Store, error) {
	if o.UpperLayer == "" {
		return nil, errors.New("a local-overlay store needs the setting 'upper-layer'")
	}
	s := &Store{opts: o, below: &below{lowers: ls}, stale: new(atomic.Bool), growth: &growth{known: ls.stamps()}, links: new(ownedLinks)}
	l := local.Layering{Lower: showing{s}, Deletable: o.UpperLayer, Aside: s.aside, Remove: s.remove, Deleting: s.collecting, OwnLinks: s.ownLinks}
	if o.Lean != nil {
		l.Lean = s.lean
	}
	if !o.NoCheckMount {
		s.guard = s.guardOf(ls)
		if err := s.guard.Check(); err != nil {
			if !o.Tolerant {
				return nil, err
			}
			o.Upper.ReadOnly, s.opts.Upper.ReadOnly = true, true
		}
		l.Guard = func() error { return s.guard.Check() }
	}
	upper, err := local.OpenLayered(ctx, o.Upper, l)
	if err != nil {
		return nil, err
	}
	if err := ls.sameDir(upper.Dir()); err != nil {
		return nil, errors.Join(err, upper.Close())
	}
	s.Store = upper
	if !o.Upper.ReadOnly && !o.NoCheckMount && o.RemountHook == "" {
		s.recover(ctx)
	}
	return s, nil
}

// Close closes all layers.
func (s *Store) Close() error {
	if s.view {
		return nil
	}
	err := s.Store.Close()
	for _, l := range s.lowers {
		err = errors.Join(err, l.Store.Close())
	}
	return err
}

// Layers gives the upper and the lowers.
func (s *Store) Layers() []store.Layer {
	out := []store.Layer{{Name: "upper", Upper: true, Store: s.Store.Own()}}
	for _, l := range s.lowers {
		out = append(out, store.Layer{Name: l.name, Store: readOnly{l.Store}})
	}
	return out
}

// Override gives a view with other settings, see [store.Overridable].
func (s *Store) Override(settings map[string]string) (store.Store, error) {
	v, err := s.Store.Override(settings)
	c := *s
	c.Store, c.view = v.(*local.Store), true //nolint:forcetypeassert // what local.Store overrides to
	return &c, err
}

// Referrers gives those of all layers.
func (s *Store) Referrers(ctx context.Context, paths []storepath.Path) ([][]storepath.Path, error) {
	all, err := s.Store.Referrers(ctx, paths)
	if err != nil {
		return nil, err
	}
	for _, l := range s.lowers {
		more, err := l.referrers(ctx, paths)
		if err != nil {
			return nil, err
		}
		for i := range more {
			all[i] = storepath.SortUnique(append(all[i], more[i]...))
		}
	}
	return all, nil
}

// ValidDerivers gives those of all layers.
func (s *Store) ValidDerivers(ctx context.Context, p storepath.Path) ([]storepath.Path, error) {
	all, err := s.Store.ValidDerivers(ctx, p)
	if err != nil {
		return nil, err
	}
	for _, l := range s.lowers {
		more, err := l.validDerivers(ctx, p)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return storepath.SortUnique(all), nil
}

// PathFromHashPart asks the upper, then the lowers.
func (s *Store) PathFromHashPart(ctx context.Context, hashPart string) (storepath.Path, error) {
	p, err := s.Store.PathFromHashPart(ctx, hashPart)
	for _, l := range s.lowers {
		if err != nil || !p.IsZero() {
			break
		}
		p, err = l.pathFromHashPart(ctx, hashPart)
	}
	return p, err
}

// Realisations asks the upper, then the lowers.
func (s *Store) Realisations(ctx context.Context, ids []store.DrvOutput) ([]*store.Realisation, error) {
	all, err := s.Store.Realisations(ctx, ids)
	for _, l := range s.lowers {
		if err != nil {
			return nil, err
		}
		err = l.addRealisations(ctx, ids, all)
	}
	return all, err
}

// RegisterRealisations stores realisations in the upper; one that a lower has
// comes up first, so that it is merged and not masked.
func (s *Store) RegisterRealisations(ctx context.Context, rs []*store.Realisation) error {
	ids := make([]store.DrvOutput, len(rs))
	for i, r := range rs {
		ids[i] = r.ID
	}
	known, err := s.Realisations(ctx, ids)
	if err != nil {
		return err
	}
	all := make([]*store.Realisation, 0, len(rs))
	for _, k := range known {
		if k != nil {
			all = append(all, k)
		}
	}
	return s.Store.RegisterRealisations(ctx, append(all, rs...))
}

// NarFromPath reads the object through the merged directory. That a lower's
// object cannot be read is damage of that lower.
func (s *Store) NarFromPath(ctx context.Context, p storepath.Path, w io.Writer) error {
	sent := &counter{w: w}
	err := s.Store.NarFromPath(ctx, p, sent)
	if errors.Is(err, fs.ErrNotExist) && sent.n == 0 && s.show(ctx, []storepath.Path{p}) {
		err = s.Store.NarFromPath(ctx, p, sent)
	}
	if err == nil || !errors.Is(err, unix.ESTALE) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EIO) {
		return err
	}
	if s.guard != nil {
		if mountErr := s.guard.Check(); mountErr != nil {
			return fmt.Errorf("reading path '%s': %w", s.Dir().Print(p), mountErr)
		}
	}
	here, dbErr := s.Store.DB().ValidPaths(ctx, []storepath.Path{p})
	if dbErr != nil {
		return errors.Join(err, dbErr)
	}
	if ctx.Err() != nil {
		return err
	}
	var silent *store.DamageError
	for _, l := range s.lowers {
		if s.inUpper(p.Base()) {
			break
		}
		valid, lowerErr := l.ValidPaths(ctx, []storepath.Path{p})
		switch {
		case lowerErr != nil && silent == nil:
			silent = &store.DamageError{Layer: l.name, Path: s.Dir().Print(p), Why: "it may be there, and the store cannot be asked", Err: errors.Join(err, lowerErr)}
		case lowerErr == nil && len(valid) > 0:
			return &store.DamageError{Layer: l.name, Path: s.Dir().Print(p), Why: "it is valid there and cannot be read", Err: err}
		}
	}
	if silent != nil {
		return silent
	}
	if len(here) > 0 {
		return &store.DamageError{Layer: "upper", Path: s.Dir().Print(p), Why: "it is valid and its object cannot be read", Err: err}
	}
	return err
}

// upperPath is where the upper layer has, or would have, an entry.
func (s *Store) upperPath(name string) string { return filepath.Join(s.opts.UpperLayer, name) }

func (s *Store) inUpper(name string) bool {
	var st unix.Stat_t
	return unix.Lstat(s.upperPath(name), &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFCHR
}

// lowerName says which layer something is about.
func lowerName(i int, uri string) string {
	return fmt.Sprintf("lower %d (%s)", i+1, strings.TrimSuffix(uri, "://"))
}

// counter counts what passes.
type counter struct {
	w io.Writer
	n int
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += n
	return n, err
}
