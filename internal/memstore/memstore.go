// Package memstore is a store in memory, for tests: small, and with all the
// abilities that need no builder. It is no model of speed.
//
//	st := memstore.New(storepath.DefaultDir)
//	p := st.AddText(t, "hello", "hello\n")
package memstore

import (
	"bytes"
	"context"
	"io"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Store is a store in memory. Its fields may be changed before it is used.
type Store struct {
	// Trusts tells whether an object may be added that is not content-addressed.
	// nil: all may.
	Trusts func(*store.PathInfo) bool
	// Now is the time of registrations, in seconds since 1970.
	Now int64

	dir storepath.Dir

	mu           sync.RWMutex
	objects      map[storepath.Path]*object
	realisations map[store.DrvOutput]*store.Realisation
	logs         map[storepath.Path][]byte
	temp         map[*tempRoots]storepath.Set
	links        map[string]storepath.Path // the zero path: what the symlink says
}

type object struct {
	info *store.PathInfo // never changed, only replaced
	nar  []byte
	drv  map[string]storepath.Path // outputs, if it is a derivation
}

// New makes an empty store.
func New(dir storepath.Dir) *Store {
	return &Store{
		dir:          dir,
		objects:      map[storepath.Path]*object{},
		realisations: map[store.DrvOutput]*store.Realisation{},
		logs:         map[storepath.Path][]byte{},
		temp:         map[*tempRoots]storepath.Set{},
		links:        map[string]storepath.Path{},
	}
}

// Dir implements store.Store.
func (s *Store) Dir() storepath.Dir { return s.dir }

// URI implements store.Store.
func (s *Store) URI() string { return "memory://" }

// Close implements store.Store.
func (s *Store) Close() error { return nil }

// ValidPaths implements store.Querier.
func (s *Store) ValidPaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var valid []storepath.Path
	for _, p := range paths {
		if s.objects[p] != nil {
			valid = append(valid, p)
		}
	}
	return valid, ctx.Err()
}

// PathInfos implements store.Querier.
func (s *Store) PathInfos(ctx context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	infos := make([]*store.PathInfo, len(paths))
	for i, p := range paths {
		if o := s.objects[p]; o != nil {
			infos[i] = o.info
		}
	}
	return infos, ctx.Err()
}

// sorted lists the objects; the caller holds mu.
func (s *Store) sorted() []storepath.Path {
	return slices.SortedFunc(maps.Keys(s.objects), storepath.Compare)
}

// AllPaths implements store.Lister.
func (s *Store) AllPaths(context.Context) iter.Seq2[storepath.Path, error] {
	s.mu.RLock()
	all := s.sorted()
	s.mu.RUnlock()
	return func(yield func(storepath.Path, error) bool) {
		for _, p := range all {
			if !yield(p, nil) {
				return
			}
		}
	}
}

// AllPathInfos implements store.InfoLister.
func (s *Store) AllPathInfos(context.Context) iter.Seq2[*store.PathInfo, error] {
	s.mu.RLock()
	var all []*store.PathInfo
	for _, p := range s.sorted() {
		all = append(all, s.objects[p].info)
	}
	s.mu.RUnlock()
	return func(yield func(*store.PathInfo, error) bool) {
		for _, i := range all {
			if !yield(i, nil) {
				return
			}
		}
	}
}

// Referrers implements store.ReferrerQuerier.
func (s *Store) Referrers(ctx context.Context, paths []storepath.Path) ([][]storepath.Path, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([][]storepath.Path, len(paths))
	for _, referrer := range s.sorted() {
		refs := s.objects[referrer].info.References
		for i, p := range paths {
			if s.objects[p] != nil && slices.Contains(refs, p) {
				out[i] = append(out[i], referrer)
			}
		}
	}
	return out, ctx.Err()
}

// ValidDerivers implements store.DeriverQuerier.
func (s *Store) ValidDerivers(ctx context.Context, p storepath.Path) ([]storepath.Path, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []storepath.Path
	for _, drv := range s.sorted() {
		for _, made := range s.objects[drv].drv {
			if made == p {
				out = append(out, drv)
				break
			}
		}
	}
	return out, ctx.Err()
}

// DerivationOutputs implements store.OutputQuerier.
func (s *Store) DerivationOutputs(ctx context.Context, drv storepath.Path) (map[string]storepath.Path, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	o := s.objects[drv]
	if o == nil {
		return nil, s.invalid(drv)
	}
	return maps.Clone(o.drv), ctx.Err()
}

func (s *Store) invalid(p storepath.Path) error {
	return &store.InvalidPathError{Path: s.dir.Print(p)}
}

// outputsOf reads a derivation; what is none has no outputs.
func (s *Store) outputsOf(p storepath.Path, archive []byte) map[string]storepath.Path {
	name, err := derivation.NameFromPath(p)
	if err != nil {
		return nil
	}
	text, err := contents(bytes.NewReader(archive))
	if err != nil {
		return nil
	}
	d, err := derivation.Parse(s.dir, name, text)
	if err != nil {
		return nil
	}
	outputs, err := d.OutputPaths(s.dir)
	if err != nil {
		return nil
	}
	return outputs
}

// PathFromHashPart implements store.HashPartQuerier.
func (s *Store) PathFromHashPart(ctx context.Context, hashPart string) (storepath.Path, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, p := range s.sorted() {
		if p.HashPart() == hashPart {
			return p, nil
		}
	}
	return storepath.Path{}, ctx.Err()
}

// NarFromPath implements store.NarSource.
func (s *Store) NarFromPath(ctx context.Context, p storepath.Path, w io.Writer) error {
	s.mu.RLock()
	o := s.objects[p]
	s.mu.RUnlock()
	if o == nil {
		return s.invalid(p)
	}
	if _, err := w.Write(o.nar); err != nil {
		return err
	}
	return ctx.Err()
}

// Realisations implements store.RealisationQuerier.
func (s *Store) Realisations(ctx context.Context, ids []store.DrvOutput) ([]*store.Realisation, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*store.Realisation, len(ids))
	for i, id := range ids {
		out[i] = s.realisations[id]
	}
	return out, ctx.Err()
}

// BuildLog implements store.LogQuerier.
func (s *Store) BuildLog(ctx context.Context, drv storepath.Path) (io.ReadCloser, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	log, ok := s.logs[drv]
	if !ok {
		return nil, store.ErrNoLog
	}
	return io.NopCloser(bytes.NewReader(log)), ctx.Err()
}
