package overlay

import (
	"context"
	"os"
	"slices"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Leaning is what the upper leans on in one lower: what that must not lose.
type Leaning struct {
	// Roots are paths of the lower whose closures are all that is used of it.
	Roots []storepath.Path
	// Uses is how many paths of the lower are used, but for what only those of them
	// refer to that the upper has no rows of.
	Uses uint64
}

// leanBatch is how many paths a lower is asked about at once.
const leanBatch = 5000

// Leaning tells, for each lower in order, what the upper leans on there: the paths of
// its rows that have no object in the upper layer, and what its roots, profiles and
// running processes use. What several lowers have is used of the first.
func (s *Store) Leaning(ctx context.Context) ([]Leaning, error) {
	g, err := s.Store.DB().Graph(ctx)
	if err != nil {
		return nil, err
	}
	roots, err := s.FindRoots(ctx, false)
	if err != nil {
		return nil, err
	}
	own, err := s.ownObjects()
	if err != nil {
		return nil, err
	}
	var nodes []int32
	var paths []storepath.Path
	for i := range g.Len() {
		if p := g.Path(i); !own.Has(p) {
			nodes, paths = append(nodes, int32(i)), append(paths, p) //nolint:gosec // a graph has no more
		}
	}
	for p := range roots {
		if g.Find(p) < 0 {
			paths = append(paths, p) // of a lower, and nobody has registered it here
		}
	}
	in, err := s.lowers.firstOf(ctx, paths)
	if err != nil {
		return nil, err
	}
	out := make([]Leaning, len(s.lowers))
	covered := coveredNodes(g, nodes, in)
	for n, p := range paths {
		k := in[n]
		if k < 0 {
			continue // damage, which a check tells of
		}
		out[k].Uses++
		if n >= len(nodes) || !covered[nodes[n]] {
			out[k].Roots = append(out[k].Roots, p)
		}
	}
	for k := range out {
		out[k].Roots = storepath.SortUnique(out[k].Roots)
	}
	return out, nil
}

// coveredNodes are those that another node of the same lower refers to: a lower that
// keeps that one keeps them.
func coveredNodes(g *nixdb.Graph, nodes []int32, in []int) []bool {
	lowerOf := make([]int, g.Len())
	for i := range lowerOf {
		lowerOf[i] = -1
	}
	for n, i := range nodes {
		lowerOf[i] = in[n]
	}
	covered := make([]bool, g.Len())
	for _, i := range nodes {
		for _, r := range g.References(int(i)) {
			if r != i && lowerOf[i] >= 0 && lowerOf[r] == lowerOf[i] {
				covered[r] = true
			}
		}
	}
	return covered
}

// ownObjects are those that lie in the upper layer.
func (s *Store) ownObjects() (storepath.Set, error) {
	entries, err := os.ReadDir(s.opts.UpperLayer)
	if err != nil {
		return nil, err
	}
	own := make(storepath.Set, len(entries))
	for _, e := range entries {
		// A character device is OverlayFS's way to say that there is nothing.
		if p, err := storepath.ParseBase(e.Name()); err == nil && e.Type()&os.ModeCharDevice == 0 {
			own.Add(p)
		}
	}
	return own, nil
}

// firstOf gives for each path the number of the first lower in which it is valid, -1
// if there is none.
func (ls lowers) firstOf(ctx context.Context, paths []storepath.Path) ([]int, error) {
	in := make([]int, len(paths))
	for i := range in {
		in[i] = -1
	}
	for start := 0; start < len(paths); start += leanBatch {
		rest := paths[start:min(start+leanBatch, len(paths))]
		where := make(map[storepath.Path]int, len(rest))
		for i, p := range rest {
			where[p] = start + i
		}
		for k, l := range ls {
			valid, err := l.Store.ValidPaths(ctx, rest)
			if err != nil {
				return nil, l.wrap(err)
			}
			for _, p := range valid {
				in[where[p]] = k
			}
			if rest = storepath.NewSet(valid...).Missing(rest); len(rest) == 0 {
				break
			}
		}
	}
	return in, nil
}

// LowerValid gives those of paths that are valid in one lower, by its number.
func (s *Store) LowerValid(ctx context.Context, lower int, paths []storepath.Path) ([]storepath.Path, error) {
	l := s.lowers[lower]
	valid, err := l.Store.ValidPaths(ctx, paths)
	return valid, l.wrap(err)
}

// lean tells whoever wants to know what is leaned on from now on. What another one of
// infos refers to is kept with that.
func (s *Store) lean(ctx context.Context, infos []*store.PathInfo) error {
	paths := make([]storepath.Path, len(infos))
	for i, info := range infos {
		paths[i] = info.Path
	}
	in, err := s.lowers.firstOf(ctx, paths)
	if err != nil {
		return err
	}
	lowerOf := make(map[storepath.Path]int, len(paths))
	for i, p := range paths {
		lowerOf[p] = in[i]
	}
	covered := storepath.Set{}
	for _, info := range infos {
		for _, r := range info.References {
			if k, ok := lowerOf[r]; ok && r != info.Path && k == lowerOf[info.Path] {
				covered.Add(r)
			}
		}
	}
	of := make([][]storepath.Path, len(s.lowers))
	for i, p := range paths {
		if in[i] >= 0 && !covered.Has(p) {
			of[in[i]] = append(of[in[i]], p)
		}
	}
	for k, some := range of {
		if len(some) > 0 {
			if err := s.opts.Lean(ctx, k, some); err != nil {
				return s.lowers[k].wrap(err)
			}
		}
	}
	return nil
}

// leanOnRoots is lean for paths that somebody makes roots of and that need not have
// rows.
func (s *Store) leanOnRoots(ctx context.Context, paths ...storepath.Path) error {
	if s.opts.Lean == nil {
		return nil
	}
	here, err := s.Store.DB().ValidPaths(ctx, paths)
	if err != nil {
		return err
	}
	return s.leanBelow(ctx, storepath.NewSet(here...).Missing(paths))
}

// leanBelow is lean for those of paths that a lower has.
func (s *Store) leanBelow(ctx context.Context, paths []storepath.Path) error {
	if s.opts.Lean == nil {
		return nil
	}
	infos, err := s.lowers.PathInfos(ctx, paths)
	if err != nil {
		return err
	}
	infos = slices.DeleteFunc(infos, func(i *store.PathInfo) bool { return i == nil })
	if len(infos) == 0 {
		return nil
	}
	return s.lean(ctx, infos)
}

// AddPermRoot makes a root, see [store.RootKeeper].
func (s *Store) AddPermRoot(ctx context.Context, p storepath.Path, link string) (string, error) {
	if err := s.leanOnRoots(ctx, p); err != nil {
		return "", err
	}
	return s.Store.AddPermRoot(ctx, p, link)
}

// AddIndirectRoot notes a root, see [store.RootKeeper].
func (s *Store) AddIndirectRoot(ctx context.Context, link string) error {
	if target, err := os.Readlink(link); err == nil {
		if p, _, err := s.Dir().Split(target); err == nil {
			if err := s.leanOnRoots(ctx, p); err != nil {
				return err
			}
		}
	}
	return s.Store.AddIndirectRoot(ctx, link)
}
