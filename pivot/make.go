package pivot

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// batch is how many paths are asked about at a time.
const batch = 1000

// Make finds out what it takes to move an upper to its new lowers. It writes nothing. Its
// memory grows with the upper's database, by some 150 bytes for a path, and not with the lowers.
// What is needed and cannot be had is a [*MissingError].
func Make(ctx context.Context, parts Parts, o Options) (*Plan, error) {
	ctx, act := activity.Start(ctx, activity.Talkative, activity.Unknown, "comparing the upper with its new lower stores")
	defer act.Stop()
	m := &maker{Parts: parts, o: o, plan: newPlan(parts, o), outside: map[storepath.Path]*stranger{}, adopted: map[storepath.Path]int{}}
	for _, step := range []func(context.Context) error{
		m.readRows, m.readLayer, m.compare, m.readRoots, m.decide, m.fill, m.lean,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	m.sort()
	return m.plan, nil
}

func newPlan(parts Parts, o Options) *Plan {
	p := &Plan{Gone: parts.Gone, Options: o}
	for _, l := range parts.Old {
		p.Old = append(p.Old, l.Name)
	}
	for _, l := range parts.New {
		p.New = append(p.New, l.Name)
	}
	return p
}

// node is what is known of one path of the upper's database.
type node uint16

const (
	own     node = 1 << iota // the upper has the object, in full
	part                     // the upper has something of it, which may not be all
	aside                    // what the upper has of it goes away before anything else
	alike                    // a new lower has it, just so
	other                    // a new lower has it otherwise
	wanted                   // a root of what is needed
	needed                   // reached from such a root
	lacking                  // needed, and to be copied
	dropped                  // its row goes
	rooted                   // a gc root leads to it
)

// maker makes a plan.
type maker struct {
	Parts
	o    Options
	plan *Plan

	g     *nixdb.Graph
	nodes []node
	where []int16 // the new lower that has a node, if one has
	// refs are those of rows that are to be changed, as far as they are in the graph; all
	// others are the graph's.
	refs    map[int32][]int32
	changed map[int32]*store.PathInfo // what the new lower says
	roots   Roots
	outside map[storepath.Path]*stranger
	adopted map[storepath.Path]int // rows that come from new lowers, and from which
	missing []Missing
	from    map[int32]Copy // of what is lacking
}

// readRows reads the upper's database.
func (m *maker) readRows(ctx context.Context) (err error) {
	m.g, err = m.DB.Graph(ctx)
	if err == nil {
		m.nodes, m.where = make([]node, m.g.Len()), make([]int16, m.g.Len())
		m.refs, m.changed, m.from = map[int32][]int32{}, map[int32]*store.PathInfo{}, map[int32]Copy{}
	}
	return err
}

// is tells whether a node has any of some flags.
func (m *maker) is(i int, flags node) bool { return m.nodes[i]&flags != 0 }

func (m *maker) set(i int, flags node) { m.nodes[i] |= flags }

// references of a node, as they are to be.
func (m *maker) references(i int) []int32 {
	if r, ok := m.refs[int32(i)]; ok {
		return r
	}
	return m.g.References(i)
}

// chunks calls f for batches of the nodes for which want holds, with their paths.
func (m *maker) chunks(ctx context.Context, want func(i int) bool, f func(nodes []int32, paths []storepath.Path) error) error {
	nodes, paths := make([]int32, 0, batch), make([]storepath.Path, 0, batch)
	flush := func() error {
		err := f(nodes, paths)
		nodes, paths = nodes[:0], paths[:0]
		if err == nil {
			err = ctx.Err()
		}
		return err
	}
	for i := range m.g.Len() {
		if !want(i) {
			continue
		}
		nodes, paths = append(nodes, int32(i)), append(paths, m.g.Path(i))
		if len(nodes) == batch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if len(nodes) == 0 {
		return nil
	}
	return flush()
}

// compare finds out what new lowers have of what is in the database.
func (m *maker) compare(ctx context.Context) error {
	return m.chunks(ctx, func(int) bool { return true }, func(nodes []int32, paths []storepath.Path) error {
		here, err := m.DB.PathInfos(ctx, paths)
		if err != nil {
			return err
		}
		there, where, err := layers(m.New).infos(ctx, paths)
		if err != nil {
			return err
		}
		for k, i := range nodes {
			if err := m.compareOne(ctx, int(i), here[k], there[k], where[k]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (m *maker) compareOne(ctx context.Context, i int, here, there *store.PathInfo, where int) error {
	same := there != nil && here != nil && here.NarHash == there.NarHash
	if m.is(i, part) {
		if err := m.judgePart(ctx, i, here, same); err != nil {
			return err
		}
	}
	switch {
	case there == nil:
		return nil
	}
	m.where[i] = int16(where) //nolint:gosec // OverlayFS has 500 lowers at most
	if same && m.is(i, own) && m.Kept.Has(there.Path) {
		got, err := hashTree(ctx, filepath.Join(m.New[where].Dir, there.Path.Base()))
		if err != nil {
			return err
		}
		if got != here.NarHash {
			m.set(i, other)
			return nil
		}
	}
	switch {
	case same && (m.is(i, own) || slices.Equal(here.References, there.References)):
		m.set(i, alike)
		return nil
	}
	m.set(i, other)
	if !same {
		m.plan.Conflicts = append(m.plan.Conflicts, Conflict{Path: m.g.Path(i), Lower: m.New[where].Name, Own: m.is(i, own)})
	}
	if m.is(i, own) {
		return nil
	}
	m.changed[int32(i)] = there
	refs := []int32{}
	for _, r := range there.References {
		if n := m.g.Find(r); n >= 0 {
			refs = append(refs, int32(n))
		}
	}
	m.refs[int32(i)] = refs
	return nil
}

// sort puts the lists in order.
func (m *maker) sort() {
	byPath := func(a, b storepath.Path) int { return storepath.Compare(a, b) }
	byObject := func(a, b Object) int { return byPath(a.Path, b.Path) }
	byRow := func(a, b Row) int { return byPath(a.Info.Path, b.Info.Path) }
	p := m.plan
	slices.SortFunc(p.Copies, func(a, b Copy) int { return byPath(a.Info.Path, b.Info.Path) })
	slices.SortFunc(p.Duplicates, byObject)
	slices.SortFunc(p.Removed, byObject)
	slices.SortFunc(p.Changed, byRow)
	slices.SortFunc(p.Added, byRow)
	slices.SortFunc(p.Dropped, byPath)
	slices.SortFunc(p.Conflicts, func(a, b Conflict) int { return byPath(a.Path, b.Path) })
	slices.SortFunc(p.LostRoots, func(a, b LostRoot) int { return cmp.Or(cmp.Compare(a.Link, b.Link), byPath(a.Path, b.Path)) })
	for _, names := range [][]string{p.Whiteouts, p.Hiding, p.Parts, p.Bound, p.Merged} {
		slices.Sort(names)
	}
}
