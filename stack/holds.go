package stack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/lease"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/storepath"
)

// A hold is a way of telling the owner of a lower what the upper leans on, so that a
// garbage collection of the lower leaves it alone. A lower whose owner takes part
// has one or two of them, others have none.

// holder is how it is done.
type holder interface {
	// renew tells all that is used; began is when that was looked for.
	renew(ctx context.Context, began time.Time, l overlay.Leaning) error
	// lean tells of paths that are about to be used, and returns when no collection
	// can take them any more, or lease.ErrGone when one has.
	lean(ctx context.Context, paths []storepath.Path) error
	// interval is how often renew is due at the latest.
	interval(ctx context.Context) (time.Duration, error)
	// describe fills in what only it knows.
	describe(st *HoldStatus)
}

// HoldStatus tells what the owner of a lower was told last.
type HoldStatus struct {
	Lower string `json:"lower"`
	// Kind is lease, roots (symlinks among the lower's gc roots), or daemon (roots
	// that its daemon was told of).
	Kind     string `json:"kind"`
	Place    string `json:"place"`
	Consumer string `json:"consumer"`
	// Uses is how many paths of the lower are used, Roots how many of them were told:
	// they keep the others. What was told since that was last found out is added to both,
	// without what it refers to.
	Uses  uint64 `json:"uses"`
	Roots int    `json:"roots"`
	// Last is when the owner was told; absent if never. Expires is until when a lease
	// counts, but for its grace period.
	Last    *time.Time `json:"last,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
	// Error is why the last attempt failed.
	Error string `json:"error,omitempty"`
}

// held is a hold on one lower.
type held struct {
	lower    int
	required bool
	do       holder

	mu sync.Mutex
	st HoldStatus
	// found are the roots of what was used when that was last found out, fresh are others that the owner
	// was told of since, and when.
	found lease.Hashes
	fresh map[storepath.Path]time.Time
}

func (h *held) failed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.st.Error != ""
}

// renewed notes that the owner was told all that is used; began is when that was looked for.
func (h *held) renewed(began time.Time, l overlay.Leaning) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.found = lease.HashesOf(l.Roots)
	maps.DeleteFunc(h.fresh, func(p storepath.Path, at time.Time) bool { return at.Before(began) || h.found.Has(lease.HashOf(p)) })
	h.st.Uses, h.st.Roots, h.st.Error = l.Uses+uint64(len(h.fresh)), len(l.Roots)+len(h.fresh), ""
	h.toldNow()
}

// leaned notes that the owner was told of more.
func (h *held) leaned(paths []storepath.Path) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for _, p := range paths {
		if _, known := h.fresh[p]; !known && !h.found.Has(lease.HashOf(p)) {
			h.st.Uses++
			h.st.Roots++
			h.fresh[p] = now
		}
	}
	h.toldNow()
}

// toldNow notes when that was. h.mu is held.
func (h *held) toldNow() {
	now := time.Now().UTC().Truncate(time.Millisecond)
	h.st.Last = &now
	h.do.describe(&h.st)
}

// notTold notes why the owner could not be told.
func (h *held) notTold(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.st.Error = err.Error()
}

func (h *held) status() HoldStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.st
}

// usage tells what is used of lowers, by their numbers.
type usage interface {
	Leaning(ctx context.Context) ([]overlay.Leaning, error)
	LowerValid(ctx context.Context, lower int, paths []storepath.Path) ([]storepath.Path, error)
}

// openHolds opens the holds on lowers that the configuration and their owners want.
func (s *Stack) openHolds(ctx context.Context, lowers []*found, stores []store.Store, u usage) ([]*held, error) {
	var all []*held
	for i, f := range lowers {
		add := func(kind, place string, do holder) {
			h := &held{lower: i, required: f.LeaseRequired != No, do: do, fresh: map[storepath.Path]time.Time{}}
			h.st = HoldStatus{Lower: f.Name, Kind: kind, Place: place, Consumer: s.Config.Consumer}
			all = append(all, h)
		}
		if f.Roots != No {
			kind, do, err := s.openRoots(i, f, stores[i], u)
			if err != nil {
				return nil, err
			}
			if do != nil {
				add(kind, f.roots, do)
			}
		}
		if f.Leases != "" {
			do, err := s.openLease(ctx, i, f, u)
			if err != nil {
				return nil, f.fail(false, err, "leases cannot be published")
			}
			add("lease", f.Leases, do)
		}
	}
	return all, nil
}

// Publish tells the owners of all lowers that take part what is used of theirs. What
// is told was found out after the call: one that is under way already is waited for,
// and what it found is not told again.
func (s *Stack) Publish(ctx context.Context) ([]HoldStatus, error) {
	out := []HoldStatus{}
	holds := s.background.held()
	if len(holds) == 0 {
		return out, nil
	}
	s.background.publishing.Lock()
	defer s.background.publishing.Unlock()
	began := time.Now()
	all, err := s.Store.Leaning(ctx)
	if err != nil {
		for _, h := range holds {
			h.notTold(err)
		}
		return nil, fmt.Errorf("finding what is used of the lowers: %w", err)
	}
	var errs []error
	for _, h := range holds {
		if err := h.do.renew(ctx, began, all[h.lower]); err != nil {
			errs = append(errs, fmt.Errorf("lower '%s': %w", h.st.Lower, err))
			h.notTold(err)
		} else {
			h.renewed(began, all[h.lower])
		}
		out = append(out, h.status())
	}
	return out, errors.Join(errs...)
}

// lean tells the owner of a lower what is about to be used of it.
func (s *Stack) lean(ctx context.Context, lower int, paths []storepath.Path) error {
	for _, h := range s.background.held() {
		if h.lower != lower {
			continue
		}
		s.background.leaned.ring()
		if err := h.lean(ctx, paths); err != nil {
			return err
		}
	}
	return nil
}

// lean tells of paths that are about to be used. That this is not possible is an error only if
// it has to be.
func (h *held) lean(ctx context.Context, paths []storepath.Path) error {
	err := h.do.lean(ctx, paths)
	if err == nil {
		h.leaned(paths)
		return nil
	}
	if ctx.Err() != nil || errors.Is(err, lease.ErrGone) {
		return err
	}
	h.notTold(err)
	if h.required {
		return fmt.Errorf("nothing more of it is used until its owner can be told (lease-required): %w", err)
	}
	activity.Warnf(ctx, "lower '%s': its owner cannot be told what is used: %v", h.st.Lower, err)
	return nil
}

// Publish has the process that serves a stack tell the owners of its lowers what is
// used of them.
func (r *Run) Publish(ctx context.Context) ([]HoldStatus, error) {
	var result []HoldStatus
	err := r.ask(ctx, askPublish, nil, &result)
	return result, err
}

// leaseHolder publishes a lease.
type leaseHolder struct{ *lease.Keeper }

// openPlace opens a place for leases.
func (s *Stack) openPlace(ctx context.Context, place string) (*lease.Place, error) {
	if s.parts.Leases == nil {
		return lease.OpenDirectory(place)
	}
	return s.parts.Leases(ctx, place)
}

// openLease prepares the publication of a lease. Nothing is asked yet: the place may
// yet come.
func (s *Stack) openLease(ctx context.Context, lower int, f *found, u usage) (holder, error) {
	p, err := s.openPlace(ctx, f.Leases)
	if err != nil {
		return nil, err
	}
	k, err := lease.NewKeeper(p, lease.KeeperOptions{
		Consumer: s.Config.Consumer, Holder: s.Config.holder(), StoreDir: s.Config.StoreDir,
		Uses: func(ctx context.Context) ([]storepath.Path, uint64, error) {
			all, err := u.Leaning(ctx)
			if err != nil {
				return nil, 0, err
			}
			return all[lower].Roots, all[lower].Uses, nil
		},
		Valid: func(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
			return u.LowerValid(ctx, lower, paths)
		},
	})
	return leaseHolder{k}, err
}

func (h leaseHolder) renew(ctx context.Context, began time.Time, l overlay.Leaning) error {
	_, err := h.RenewWith(ctx, began, l.Roots, l.Uses)
	return err
}

func (h leaseHolder) lean(ctx context.Context, paths []storepath.Path) error {
	return h.Lean(ctx, paths)
}

func (h leaseHolder) interval(ctx context.Context) (time.Duration, error) { return h.Interval(ctx) }

func (h leaseHolder) describe(st *HoldStatus) {
	if l, _ := h.Last(); l != nil {
		st.Expires = &l.Expires
	}
}
