package pivot

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// stranger is a path that the upper's database does not have and a gc root leads to,
// directly or not.
type stranger struct {
	old   *store.PathInfo // nil: no old lower that is there has it
	lower int             // which one
	in    *store.PathInfo // what a new lower says
	where int             // which one
}

// readRoots finds what gc roots lead to.
func (m *maker) readRoots(ctx context.Context) error {
	if m.Roots == nil {
		return nil
	}
	var err error
	if m.roots, err = m.Parts.Roots(ctx); err != nil {
		return err
	}
	var strangers []storepath.Path
	for _, roots := range []store.Roots{m.roots.Links, m.roots.InUse} {
		for p := range roots {
			if i := m.g.Find(p); i >= 0 {
				m.set(i, rooted)
			} else {
				strangers = append(strangers, p)
			}
		}
	}
	return m.askAbout(ctx, storepath.SortUnique(strangers))
}

// askAbout finds out what lowers have of paths that the upper's database does not have.
func (m *maker) askAbout(ctx context.Context, paths []storepath.Path) error {
	for chunk := range slices.Chunk(paths, batch) {
		in, inNew, err := layers(m.New).infos(ctx, chunk)
		if err != nil {
			return err
		}
		old, where, err := layers(m.Old).infos(ctx, chunk)
		if err != nil {
			return err
		}
		for k, p := range chunk {
			m.outside[p] = &stranger{old: old[k], lower: where[k], in: in[k], where: inNew[k]}
		}
	}
	return nil
}

// rootsOf lists what makes a path a root.
func (m *maker) rootsOf(p storepath.Path) []string {
	return slices.Concat(m.roots.Links[p], m.roots.InUse[p])
}

// loseRoots notes that the links that lead to a path lead to nothing any more.
func (m *maker) loseRoots(p storepath.Path) {
	for _, link := range m.roots.Links[p] {
		m.plan.LostRoots = append(m.plan.LostRoots, LostRoot{Link: link, Path: p, Removed: strings.HasPrefix(link, m.StateDir+"/")})
	}
}

// strangersWanted are the paths that roots lead to, that are in no new lower and not in
// the database. With DropRoots only those that processes use.
func (m *maker) strangersWanted() []storepath.Path {
	var out []storepath.Path
	for p, s := range m.outside {
		if s.in != nil || s.old == nil {
			continue
		}
		if m.o.DropRoots && len(m.roots.InUse[p]) == 0 {
			m.loseRoots(p)
			continue
		}
		out = append(out, p)
	}
	return storepath.SortUnique(out)
}

// addStrangers plans copies of what roots lead to and the database does not know, with
// all that it refers to. It marks as wanted what of that the database knows.
func (m *maker) addStrangers(ctx context.Context) error {
	level := m.strangersWanted()
	seen := storepath.NewSet(level...)
	for len(level) > 0 {
		var next []storepath.Path
		for _, p := range level {
			s := m.outside[p]
			info, dir := s.in, ""
			switch {
			case s.in != nil:
				_, where, err := layers(m.New).infos(ctx, []storepath.Path{p})
				if err != nil {
					return err
				}
				dir = m.New[max(where[0], 0)].Dir
			case s.old != nil && m.Unreadable[p] == nil:
				info, dir = s.old, m.Old[s.lower].Dir
				m.plan.Copies = append(m.plan.Copies, Copy{Info: info, From: m.Old[s.lower].Name, New: true})
			default:
				m.missing = append(m.missing, Missing{Path: p, Roots: m.rootsOf(p), Why: m.Unreadable[p]})
				continue
			}
			row, err := m.row(info, dir)
			if err != nil {
				return err
			}
			m.plan.Added = append(m.plan.Added, row)
			next = append(next, m.follow(info.References, seen)...)
		}
		if err := m.askAbout(ctx, next); err != nil {
			return err
		}
		level = next
	}
	return nil
}

// follow marks those references that the database has, and gives the others that are not
// in seen yet.
func (m *maker) follow(refs []storepath.Path, seen storepath.Set) (strangers []storepath.Path) {
	for _, r := range refs {
		if i := m.g.Find(r); i >= 0 {
			m.set(i, wanted)
		} else if seen.Add(r) {
			strangers = append(strangers, r)
		}
	}
	return strangers
}

// adoptReferences adds the rows of what changed rows refer to and the database does not
// have: new lowers have all of it.
func (m *maker) adoptReferences(ctx context.Context) error {
	seen := storepath.Set{}
	for _, row := range m.plan.Added {
		seen.Add(row.Info.Path)
	}
	var level []storepath.Path
	for _, row := range m.plan.Changed {
		level = append(level, m.follow(row.Info.References, seen)...)
	}
	for len(level) > 0 {
		level = storepath.SortUnique(level)
		infos, where, err := layers(m.New).infos(ctx, level)
		if err != nil {
			return err
		}
		var next []storepath.Path
		for k, info := range infos {
			if info == nil {
				return &store.InvalidPathError{Path: m.Dir.Print(level[k])}
			}
			row, err := m.row(info, m.New[where[k]].Dir)
			if err != nil {
				return err
			}
			m.adopted[info.Path] = where[k]
			m.plan.Added = append(m.plan.Added, row)
			next = append(next, m.follow(info.References, seen)...)
		}
		level = next
	}
	return nil
}

// compareMissing puts the list in order.
func compareMissing(a, b Missing) int {
	return cmp.Or(storepath.Compare(a.Path, b.Path), cmp.Compare(len(b.Roots), len(a.Roots)))
}
