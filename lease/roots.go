package lease

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// heldBy is who has leased a path: one of them by its number, and how many others.
type heldBy struct{ first, others uint32 }

// Roots gives the paths of a lower store that leases keep, with who keeps them. A
// lease that cannot be read is an error that names it, unless its consumer is
// among skip. What is not valid in the lower is passed over.
func (p *Place) Roots(ctx context.Context, lower store.Store, skip ...string) (store.Roots, error) {
	var mu sync.Mutex
	var consumers []string
	held := map[Hash]heldBy{}
	t, err := p.each(ctx, func(e Entry) error {
		if e.Err != nil {
			if slices.ContainsFunc(skip, func(c string) bool { return leaseName(c) == e.Name }) {
				activity.Warnf(ctx, "passing over what cannot be read, as told: %v", e.Err)
				return nil
			}
			return e.Err
		}
		if !e.State.Counts() || slices.Contains(skip, e.Lease.Consumer) {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		n := uint32(len(consumers)) //nolint:gosec // far fewer
		consumers = append(consumers, e.Lease.Consumer)
		for _, h := range e.Lease.Roots {
			by, ok := held[h]
			switch {
			case !ok:
				by.first = n
			case e.Lease.Consumer < consumers[by.first]:
				by = heldBy{n, by.others + 1}
			default:
				by.others++
			}
			held[h] = by
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("finding what is leased: %w", err)
	}
	if t.StoreDir != lower.Dir() {
		return nil, fmt.Errorf("finding what is leased: '%s' has the leases of stores with the store directory '%s', and not '%s'", p.name, t.StoreDir, lower.Dir())
	}
	roots := store.Roots{}
	err = named(ctx, lower, held, func(path storepath.Path, by heldBy) {
		who := "{lease:" + consumers[by.first] + "}"
		if by.others > 0 {
			who = fmt.Sprintf("{lease:%s and %d more}", consumers[by.first], by.others)
		}
		roots[path] = []string{who}
	})
	if err != nil {
		return nil, fmt.Errorf("finding what is leased: %w", err)
	}
	return roots, nil
}

// fewHashes is up to how many paths are asked for one by one. Beyond that it is
// quicker to look at all that the store has.
const fewHashes = 2000

// named completes hash parts to the paths of a store.
func named(ctx context.Context, st store.Store, held map[Hash]heldBy, found func(storepath.Path, heldBy)) error {
	lister, canList := store.As[store.Lister](st)
	if q, ok := store.As[store.HashPartQuerier](st); ok && (len(held) <= fewHashes || !canList) {
		for h, by := range held {
			path, err := q.PathFromHashPart(ctx, h.String())
			if err != nil {
				return err
			}
			if !path.IsZero() {
				found(path, by)
			}
		}
		return nil
	}
	if !canList {
		return &store.UnsupportedError{Op: "queryAllValidPaths", Store: st.URI()}
	}
	for path, err := range lister.AllPaths(ctx) {
		if err != nil {
			return err
		}
		if by, ok := held[HashOf(path)]; ok {
			found(path, by)
		}
	}
	return nil
}
