package overlay

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// lower is a lower store, with nothing but what reads.
type lower struct {
	readOnly
	name string
	dir  string // of the objects
}

// readOnly hides every ability that a lower is not asked for.
type readOnly struct{ store.Store }

// Unwrap would give the abilities to write back; there is none.

// RealDir is where the objects are.
func (r readOnly) RealDir() string {
	d, _ := store.As[store.Directory](r.Store)
	if d == nil {
		return ""
	}
	return d.RealDir()
}

// lowers are the lower stores, first wins.
type lowers []*lower

func newLowers(stores []store.Store) (lowers, error) {
	if len(stores) == 0 {
		return nil, errors.New("a local-overlay store needs at least one lower store")
	}
	var ls lowers
	for i, s := range stores {
		name := lowerName(i, s.URI())
		d, ok := store.As[store.Directory](s)
		if !ok || d.RealDir() == "" {
			return nil, fmt.Errorf("%s: %w", name, &store.UnsupportedError{
				Op: "being a lower store", Store: s.URI(), Why: "its objects are not files of this machine",
			})
		}
		ls = append(ls, &lower{readOnly: readOnly{s}, name: name, dir: d.RealDir()})
	}
	return ls, nil
}

// dirs are the directories of the objects.
func (ls lowers) dirs() []string {
	var out []string
	for _, l := range ls {
		out = append(out, store.Dirs(l.Store)...)
	}
	return out
}

// sameDir refuses lowers whose objects have other names than ours.
func (ls lowers) sameDir(dir storepath.Dir) error {
	for _, l := range ls {
		if l.Dir() != dir {
			return fmt.Errorf("%s has the store directory '%s', and the store over it '%s'; they must be the same", l.name, l.Dir(), dir)
		}
	}
	return nil
}

// wrap says which lower could not tell.
func (l *lower) wrap(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%s: %w", l.name, err)
}

// ValidPaths gives those that are valid in any lower.
func (ls lowers) ValidPaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	have := make(storepath.Set, len(paths))
	rest := paths
	for _, l := range ls {
		valid, err := l.Store.ValidPaths(ctx, rest)
		if err != nil {
			return nil, l.wrap(err)
		}
		for _, p := range valid {
			have.Add(p)
		}
		if rest = have.Missing(rest); len(rest) == 0 {
			break
		}
	}
	out := make([]storepath.Path, 0, len(have))
	for _, p := range paths {
		if have.Has(p) {
			out = append(out, p)
		}
	}
	return out, nil
}

// PathInfos asks the lowers in order for what the ones before do not have.
func (ls lowers) PathInfos(ctx context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	out := make([]*store.PathInfo, len(paths))
	rest, where := paths, make([]int, len(paths))
	for i := range where {
		where[i] = i
	}
	for _, l := range ls {
		infos, err := l.Store.PathInfos(ctx, rest)
		if err != nil {
			return nil, l.wrap(err)
		}
		var next []storepath.Path
		var nextWhere []int
		for n, info := range infos {
			if info == nil {
				next, nextWhere = append(next, rest[n]), append(nextWhere, where[n])
			} else {
				out[where[n]] = info
			}
		}
		if rest, where = next, nextWhere; len(rest) == 0 {
			break
		}
	}
	return out, nil
}

// The rest are questions that a lower may be unable to answer. Then they have no
// answer from it, as nobody relies on them to delete anything.

func (l *lower) referrers(ctx context.Context, paths []storepath.Path) ([][]storepath.Path, error) {
	q, ok := store.As[store.ReferrerQuerier](l.Store)
	if !ok {
		return nil, nil
	}
	r, err := q.Referrers(ctx, paths)
	return r, l.wrap(err)
}

func (l *lower) validDerivers(ctx context.Context, p storepath.Path) ([]storepath.Path, error) {
	q, ok := store.As[store.DeriverQuerier](l.Store)
	if !ok {
		return nil, nil
	}
	d, err := q.ValidDerivers(ctx, p)
	return d, l.wrap(err)
}

func (l *lower) pathFromHashPart(ctx context.Context, hashPart string) (storepath.Path, error) {
	q, err := store.Need[store.HashPartQuerier](l.Store, "queryPathFromHashPart")
	if err != nil {
		return storepath.Path{}, l.wrap(err)
	}
	p, err := q.PathFromHashPart(ctx, hashPart)
	return p, l.wrap(err)
}

func (l *lower) derivationOutputs(ctx context.Context, drv storepath.Path) (map[string]storepath.Path, error) {
	q, err := store.Need[store.OutputQuerier](l.Store, "queryDerivationOutputMap")
	if err != nil {
		return nil, l.wrap(err)
	}
	m, err := q.DerivationOutputs(ctx, drv)
	return m, l.wrap(err)
}

// addRealisations fills in what is still nil.
func (l *lower) addRealisations(ctx context.Context, ids []store.DrvOutput, all []*store.Realisation) error {
	q, ok := store.As[store.RealisationQuerier](l.Store)
	if !ok {
		return nil
	}
	var rest []store.DrvOutput
	var where []int
	for i, r := range all {
		if r == nil {
			rest, where = append(rest, ids[i]), append(where, i)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	found, err := q.Realisations(ctx, rest)
	if err != nil {
		return l.wrap(err)
	}
	for n, r := range found {
		all[where[n]] = r
	}
	return nil
}
