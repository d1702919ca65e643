package gc

import (
	"context"
	"slices"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// WhyAsking is Why of any store that can be asked for roots and referrers, such as one
// on the other side of a daemon. It goes from the paths to what refers to them, level by
// level, so that what they have nothing to do with costs nothing. A derivation is taken
// to be kept by its outputs (keep-derivations, Nix's default), as nobody can be asked for
// that.
func WhyAsking(ctx context.Context, s store.Store, paths []storepath.Path, nearest bool) ([][]store.Reason, error) {
	c, err := store.Need[store.Collector](s, "findRoots")
	if err != nil {
		return nil, err
	}
	roots, err := c.FindRoots(ctx, false)
	if err != nil {
		return nil, err
	}
	q, err := store.Need[store.ReferrerQuerier](s, "queryReferrers")
	if err != nil {
		return nil, err
	}
	a := asker{s: s, q: q, roots: roots}
	if !nearest {
		g, keeps, err := a.ancestors(ctx, paths, false)
		if err != nil {
			return nil, err
		}
		return Why(g, keeps, roots, paths, false), nil
	}
	out := make([][]store.Reason, len(paths))
	for i, p := range paths {
		g, keeps, err := a.ancestors(ctx, []storepath.Path{p}, true)
		if err != nil {
			return nil, err
		}
		out[i] = Why(g, keeps, roots, []storepath.Path{p}, true)[0]
	}
	return out, nil
}

type asker struct {
	s     store.Store
	q     store.ReferrerQuerier
	roots store.Roots
}

// asked is the part of a graph that was asked for.
type asked struct {
	paths  []storepath.Path
	number map[storepath.Path]int32
	refs   [][]int32
	drvs   map[int32][]int32 // derivations that paths keep
}

func (g *asked) Len() int                  { return len(g.paths) }
func (g *asked) Path(i int) storepath.Path { return g.paths[i] }
func (g *asked) References(i int) []int32  { return g.refs[i] }
func (g *asked) NarSize(int) uint64        { return 0 }
func (g *asked) Row(i int) int64           { return int64(i) }

func (g *asked) Find(p storepath.Path) int {
	if i, ok := g.number[p]; ok {
		return int(i)
	}
	return -1
}

// FindBases implements Graph.
func (g *asked) FindBases(names [][]byte, numbers []int32) {
	for i, name := range names {
		numbers[i] = -1
		if p, err := storepath.ParseBase(string(name)); err == nil {
			numbers[i] = int32(g.Find(p)) //nolint:gosec // a number of a node
		}
	}
}

// add gives the number of a path, and whether it is new.
func (g *asked) add(p storepath.Path) (i int32, isNew bool) {
	if i, ok := g.number[p]; ok {
		return i, false
	}
	i = int32(len(g.paths)) //nolint:gosec // they would not fit into memory
	g.number[p] = i
	g.paths, g.refs = append(g.paths, p), append(g.refs, nil)
	return i, true
}

// ancestors asks for all that leads to targets; with first, no further than to the
// first root.
func (a *asker) ancestors(ctx context.Context, targets []storepath.Path, first bool) (*asked, Keeps, error) {
	g := &asked{number: map[storepath.Path]int32{}, drvs: map[int32][]int32{}}
	level, err := a.s.ValidPaths(ctx, targets)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range level {
		g.add(p)
	}
	for len(level) > 0 {
		if first && slices.ContainsFunc(level, func(p storepath.Path) bool { return a.roots[p] != nil }) {
			break
		}
		if level, err = a.up(ctx, g, level); err != nil {
			return nil, nil, err
		}
	}
	return g, func(i int) []int32 { return g.drvs[int32(i)] }, nil //nolint:gosec // a number of a node
}

// up adds what keeps the paths of a level, and gives what of that is new.
func (a *asker) up(ctx context.Context, g *asked, level []storepath.Path) (next []storepath.Path, err error) {
	referrers, err := a.q.Referrers(ctx, level)
	if err != nil {
		return nil, err
	}
	reach := func(p storepath.Path) int32 {
		i, isNew := g.add(p)
		if isNew {
			next = append(next, p)
		}
		return i
	}
	for n, p := range level {
		to, _ := g.add(p)
		for _, r := range referrers[n] {
			if r != p {
				i := reach(r)
				g.refs[i] = append(g.refs[i], to)
			}
		}
		if !p.IsDerivation() {
			continue
		}
		outputs, err := a.built(ctx, p)
		if err != nil {
			return nil, err
		}
		for _, o := range outputs {
			i := reach(o)
			g.drvs[i] = append(g.drvs[i], to)
		}
	}
	return next, nil
}

// built gives the valid outputs of a derivation whose deriver it is.
func (a *asker) built(ctx context.Context, drv storepath.Path) ([]storepath.Path, error) {
	q, ok := store.As[store.OutputQuerier](a.s)
	if !ok {
		return nil, nil
	}
	outputs, err := q.DerivationOutputs(ctx, drv)
	if err != nil {
		return nil, err
	}
	var paths []storepath.Path
	for _, p := range outputs {
		if !p.IsZero() {
			paths = append(paths, p)
		}
	}
	infos, err := a.s.PathInfos(ctx, storepath.SortUnique(paths))
	if err != nil {
		return nil, err
	}
	var built []storepath.Path
	for _, info := range infos {
		if info != nil && info.Deriver == drv {
			built = append(built, info.Path)
		}
	}
	return built, nil
}
