package pivot

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// fill writes into the plan what was decided.
func (m *maker) fill(ctx context.Context) error {
	p := m.plan
	goes := map[string]bool{}
	for i := range m.g.Len() {
		path, object := m.g.Path(i), Object{Path: m.g.Path(i), NarSize: m.g.NarSize(i)}
		switch {
		case m.is(i, dropped) && m.is(i, own):
			p.Removed, goes[path.Base()] = append(p.Removed, object), true
		case m.is(i, dropped):
			p.Dropped = append(p.Dropped, path)
		case m.is(i, own) && m.is(i, alike):
			p.Duplicates, goes[path.Base()] = append(p.Duplicates, object), true
		case m.is(i, own):
			p.Kept.add(object.NarSize)
		case m.is(i, lacking) && m.is(i, needed):
			p.Copies = append(p.Copies, m.from[int32(i)])
		}
		if m.is(i, aside) {
			p.Parts, goes[path.Base()] = append(p.Parts, path.Base()), true
		}
		if m.is(i, dropped) && m.is(i, rooted) && !m.below(i) {
			m.loseRoots(path)
		}
		if info := m.changed[int32(i)]; info != nil && !m.is(i, dropped) {
			row, err := m.changedRow(ctx, info)
			if err != nil {
				return err
			}
			p.Changed = append(p.Changed, row)
		}
	}
	for _, name := range p.Hiding {
		goes[name] = true
	}
	leaves := func(name string) bool { return goes[name] }
	p.Bound, p.Merged = slices.DeleteFunc(p.Bound, leaves), slices.DeleteFunc(p.Merged, leaves)
	p.Conflicts = slices.DeleteFunc(p.Conflicts, func(c Conflict) bool { return m.is(m.g.Find(c.Path), dropped) })
	return m.adoptReferences(ctx)
}

// changedRow is the row that a path gets which a new lower has otherwise. What was signed was
// the old one.
func (m *maker) changedRow(ctx context.Context, info *store.PathInfo) (Row, error) {
	_, where, err := layers(m.New).infos(ctx, []storepath.Path{info.Path})
	if err != nil {
		return Row{}, err
	}
	return m.row(info, m.New[max(where[0], 0)].Dir)
}

// row is what an object is registered with that lies in dir.
func (m *maker) row(info *store.PathInfo, dir string) (Row, error) {
	r := Row{Info: info}
	if !info.Path.IsDerivation() {
		return r, nil
	}
	var err error
	if r.Outputs, err = m.outputs(filepath.Join(dir, info.Path.Base()), info.Path); err != nil {
		return r, fmt.Errorf("derivation '%s': %w", m.Dir.Print(info.Path), err)
	}
	return r, nil
}

// outputs reads which paths a derivation will have for sure.
func (m *maker) outputs(file string, p storepath.Path) (map[string]storepath.Path, error) {
	drv, err := m.readDerivation(file, p)
	if err != nil {
		return nil, err
	}
	outputs, err := drv.OutputPaths(m.Dir)
	for name, p := range outputs {
		if p.IsZero() {
			delete(outputs, name)
		}
	}
	return outputs, err
}
