package pivot

import (
	"context"
	"slices"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// below tells whether a new lower has a path of the database, and the upper need not.
func (m *maker) below(i int) bool { return m.is(i, alike|other) }

// decide finds out what is needed, where what is lacking comes from, and what goes.
func (m *maker) decide(ctx context.Context) error {
	if err := m.addStrangers(ctx); err != nil {
		return err
	}
	if err := m.wantRoots(ctx); err != nil {
		return err
	}
	m.markNeeded()
	if err := m.findLacking(ctx); err != nil {
		return err
	}
	if len(m.missing) > 0 && !m.o.DropMissing {
		m.nameReferrers()
		return &MissingError{Dir: m.Dir, Missing: m.missing}
	}
	// What goes takes along what was needed for it alone.
	for m.drop() {
		m.markNeeded()
	}
	m.dropStrangers()
	m.plan.Missing = m.missing
	return nil
}

// wantRoots marks where what is needed begins.
func (m *maker) wantRoots(ctx context.Context) error {
	for i := range m.g.Len() {
		if !m.is(i, rooted) {
			continue
		}
		p := m.g.Path(i)
		if m.o.DropRoots && !m.is(i, own) && !m.below(i) && len(m.roots.InUse[p]) == 0 {
			continue // looked at again when it is known what else needs it
		}
		m.set(i, wanted)
	}
	if !m.o.OnlyLive {
		for i := range m.g.Len() {
			if m.is(i, own) {
				m.set(i, wanted)
			}
		}
		return nil
	}
	keeps, err := m.keeps(ctx)
	if err == nil {
		m.spread(wanted, keeps)
	}
	return err
}

// markNeeded marks what can be reached from what is wanted and stays.
func (m *maker) markNeeded() {
	for i := range m.nodes {
		if m.nodes[i] &^= needed; m.is(i, wanted) && !m.is(i, dropped) {
			m.set(i, needed)
		}
	}
	m.spread(needed, nil)
}

// spread gives a flag to everything that can be reached from what has it and stays.
func (m *maker) spread(flag node, keeps gc.Keeps) {
	var todo []int32
	for i := range m.g.Len() {
		if m.is(i, flag) {
			todo = append(todo, int32(i))
		}
	}
	add := func(list []int32) {
		for _, r := range list {
			if !m.is(int(r), flag|dropped) {
				m.set(int(r), flag)
				todo = append(todo, r)
			}
		}
	}
	for len(todo) > 0 {
		i := int(todo[len(todo)-1])
		todo = todo[:len(todo)-1]
		add(m.references(i))
		if keeps != nil {
			add(keeps(i))
		}
	}
}

// findLacking finds out where what is needed and nowhere else can be copied from.
func (m *maker) findLacking(ctx context.Context) error {
	lost := map[storepath.Path]*store.PathInfo{} // what no old lower has, as the database knows it
	want := func(i int) bool { return m.is(i, needed) && !m.is(i, own) && !m.below(i) }
	if err := m.chunks(ctx, want, func(nodes []int32, paths []storepath.Path) error {
		here, err := m.DB.PathInfos(ctx, paths)
		if err != nil {
			return err
		}
		old, where, err := layers(m.Old).alike(ctx, paths, here)
		if err != nil {
			return err
		}
		for k, i := range nodes {
			switch {
			case here[k] == nil:
				return &store.InvalidPathError{Path: m.Dir.Print(paths[k])} // deleted while we look
			case old[k] != nil && m.Unreadable[paths[k]] == nil:
				m.take(i, here[k], m.Old[where[k]].Name)
			default:
				lost[paths[k]] = here[k]
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if len(lost) == 0 {
		return nil
	}
	if err := m.askSources(ctx, lost); err != nil {
		return err
	}
	for p := range lost {
		m.missing = append(m.missing, Missing{Path: p, Roots: m.rootsOf(p), Why: m.Unreadable[p]})
	}
	slices.SortFunc(m.missing, compareMissing)
	return nil
}

func (m *maker) take(i int32, info *store.PathInfo, from string) {
	m.set(int(i), lacking)
	m.from[i] = Copy{Info: info, From: from}
}

// nameReferrers says of what is missing what refers to it.
func (m *maker) nameReferrers() {
	by := map[int32]int{}
	for k, miss := range m.missing {
		if i := m.g.Find(miss.Path); i >= 0 {
			by[int32(i)] = k
		}
	}
	for i := range m.g.Len() {
		if !m.is(i, needed) {
			continue
		}
		for _, r := range m.references(i) {
			if k, ok := by[r]; ok && int(r) != i && (m.missing[k].By.IsZero() || m.is(i, own)) {
				m.missing[k].By = m.g.Path(i)
			}
		}
	}
}

// drop marks what goes: rows that nothing needs and no new lower has, what is missing, and
// all that refers to those. It tells whether anything was added.
func (m *maker) drop() bool {
	var todo []int32
	add := func(i int) {
		if !m.is(i, dropped) {
			m.set(i, dropped)
			todo = append(todo, int32(i))
		}
	}
	for i := range m.g.Len() {
		if !m.is(i, own) && !m.below(i) && !m.is(i, needed) {
			add(i)
		}
	}
	for _, miss := range m.missing {
		if i := m.g.Find(miss.Path); i >= 0 {
			add(i)
		}
	}
	if len(todo) == 0 {
		return false
	}
	referrers := m.referrers()
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, r := range referrers(i) {
			add(int(r))
		}
	}
	return true
}

// referrers turns the graph around.
func (m *maker) referrers() func(i int32) []int32 {
	from := make([]uint32, m.g.Len()+1)
	for i := range m.g.Len() {
		for _, r := range m.references(i) {
			from[r+1]++
		}
	}
	for i := range m.g.Len() {
		from[i+1] += from[i]
	}
	next, to := slices.Clone(from), make([]int32, from[m.g.Len()])
	for i := range m.g.Len() {
		for _, r := range m.references(i) {
			to[next[r]] = int32(i)
			next[r]++
		}
	}
	return func(i int32) []int32 { return to[from[i]:from[i+1]] }
}

// dropStrangers takes the copies out that lean on what goes.
func (m *maker) dropStrangers() {
	gone := storepath.Set{}
	for _, miss := range m.missing {
		gone.Add(miss.Path)
	}
	for again := true; again; {
		again = false
		m.plan.Added = slices.DeleteFunc(m.plan.Added, func(row Row) bool {
			lost := slices.ContainsFunc(row.Info.References, func(r storepath.Path) bool {
				i := m.g.Find(r)
				return gone.Has(r) && r != row.Info.Path || i >= 0 && m.is(i, dropped)
			})
			if lost && gone.Add(row.Info.Path) {
				again = true
				if s := m.outside[row.Info.Path]; s == nil || s.in == nil {
					m.loseRoots(row.Info.Path)
				}
			}
			return lost
		})
	}
	m.plan.Copies = slices.DeleteFunc(m.plan.Copies, func(c Copy) bool { return gone.Has(c.Info.Path) })
}
