package memstore

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// tempRoots are the keys of Store.temp.
type tempRoots struct{ s *Store }

// NewTempRoots implements store.TempRooter.
func (s *Store) NewTempRoots() store.TempRoots { return &tempRoots{s} }

func (r *tempRoots) Add(ctx context.Context, paths []storepath.Path) error {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if r.s.temp[r] == nil {
		r.s.temp[r] = storepath.NewSet()
	}
	for _, p := range paths {
		r.s.temp[r].Add(p)
	}
	return ctx.Err()
}

func (r *tempRoots) Close() error {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	delete(r.s.temp, r)
	return nil
}

// TempRooted tells which paths are kept by temporary roots.
func (s *Store) TempRooted() []storepath.Path {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := storepath.NewSet()
	for _, paths := range s.temp {
		for p := range paths {
			all.Add(p)
		}
	}
	return all.Sorted()
}

// AddIndirectRoot implements store.RootKeeper.
func (s *Store) AddIndirectRoot(_ context.Context, link string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links[link] = storepath.Path{}
	return nil
}

// AddPermRoot implements store.RootKeeper, without touching the file system.
func (s *Store) AddPermRoot(_ context.Context, p storepath.Path, link string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links[link] = p
	return link, nil
}

// FindRoots implements store.Collector.
func (s *Store) FindRoots(ctx context.Context, censor bool) (store.Roots, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.roots(censor), ctx.Err()
}

func (s *Store) roots(censor bool) store.Roots {
	roots := store.Roots{}
	add := func(p storepath.Path, link string) {
		if censor {
			link = "{censored}"
		}
		if !slices.Contains(roots[p], link) {
			roots[p] = append(roots[p], link)
		}
	}
	for _, paths := range s.temp {
		for p := range paths {
			add(p, "{temp:1}")
		}
	}
	for link, p := range s.links {
		if p.IsZero() {
			target, err := os.Readlink(link)
			if err != nil {
				continue // a root that is gone
			}
			if p, _, err = s.dir.Split(target); err != nil {
				continue
			}
		}
		add(p, link)
	}
	return roots
}

// live gives what the roots reach; the caller holds mu.
func (s *Store) live() storepath.Set {
	live := storepath.NewSet()
	var visit func(p storepath.Path)
	visit = func(p storepath.Path) {
		o := s.objects[p]
		if o == nil || !live.Add(p) {
			return
		}
		for _, ref := range o.info.References {
			visit(ref)
		}
	}
	for p := range s.roots(false) {
		visit(p)
	}
	return live
}

// CollectGarbage implements store.Collector.
func (s *Store) CollectGarbage(ctx context.Context, o store.GCOptions) (*store.GCResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	live := s.live()
	if o.IgnoreLiveness {
		live = storepath.NewSet()
	}
	r := new(store.GCResult)
	switch o.Action {
	case store.ReturnLive:
		r.Paths = s.dir.PrintAll(live.Sorted())
		return r, ctx.Err()
	case store.ReturnDead:
		for _, p := range s.sorted() {
			if !live.Has(p) {
				r.Paths = append(r.Paths, s.dir.Print(p))
			}
		}
		return r, ctx.Err()
	case store.DeleteSpecific:
		for _, p := range o.Paths {
			if live.Has(p) {
				return nil, fmt.Errorf("%w: cannot delete path '%s' since it is still alive", store.ErrAlive, s.dir.Print(p))
			}
		}
	}
	wanted := s.withReferrers(o.Paths)
	for _, p := range s.sorted() {
		if (o.Action == store.DeleteDead || wanted.Has(p)) && !live.Has(p) && r.BytesFreed < o.MaxFreed {
			r.Paths = append(r.Paths, s.dir.Print(p))
			r.BytesFreed += uint64(len(s.objects[p].nar))
			delete(s.objects, p)
		}
	}
	return r, ctx.Err()
}

// withReferrers adds what refers to paths, directly or not; the caller holds mu.
func (s *Store) withReferrers(paths []storepath.Path) storepath.Set {
	all := storepath.NewSet(paths...)
	for grown := true; grown; {
		grown = false
		for p, o := range s.objects {
			if slices.ContainsFunc(o.info.References, all.Has) {
				grown = all.Add(p) || grown
			}
		}
	}
	return all
}

// Verify implements store.Verifier.
func (s *Store) Verify(ctx context.Context, o store.VerifyOptions) (bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	damaged := false
	for _, p := range s.sorted() {
		object := s.objects[p]
		if got := nixhash.Of(nixhash.SHA256, string(object.nar)); o.CheckContents && got != object.info.NarHash {
			activity.Logf(ctx, activity.Error, "path '%s' was modified! expected hash '%s', got '%s'",
				s.dir.Print(p), object.info.NarHash.Text(nixhash.Nix32), got.Text(nixhash.Nix32))
			damaged = true
		}
	}
	return damaged, ctx.Err()
}

// Optimise implements store.Optimiser; memory is as good as it gets.
func (s *Store) Optimise(ctx context.Context) error { return ctx.Err() }

// Damage changes the contents of an object behind the store's back.
func (s *Store) Damage(p storepath.Path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects[p]
	broken := slices.Clone(o.nar)
	broken[len(broken)/2] ^= 0x20
	s.objects[p] = &object{info: o.info, nar: broken, drv: o.drv}
}
