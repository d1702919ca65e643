package pivot

import (
	"context"

	"github.com/strata-nix/strata/storepath"
)

// lean lists what the upper is going to lean on in each new lower: the paths of its rows that
// lie there and not in the layer, and what gc roots lead to.
func (m *maker) lean(context.Context) error {
	m.plan.Leans = make([][]storepath.Path, len(m.New))
	leans := func(i int) bool {
		return !m.is(i, dropped) && m.below(i) && (!m.is(i, own) || m.is(i, alike))
	}
	// What another one refers to that lies in the same lower is kept with that.
	covered := make([]bool, m.g.Len())
	for i := range m.g.Len() {
		if !leans(i) {
			continue
		}
		for _, r := range m.references(i) {
			if int(r) != i && leans(int(r)) && m.where[r] == m.where[i] {
				covered[r] = true
			}
		}
	}
	add := func(lower int, p storepath.Path) { m.plan.Leans[lower] = append(m.plan.Leans[lower], p) }
	for i := range m.g.Len() {
		if leans(i) && !covered[i] {
			add(int(m.where[i]), m.g.Path(i))
		}
	}
	for p, s := range m.outside {
		if s.in != nil {
			add(s.where, p)
		}
	}
	for p, where := range m.adopted {
		add(where, p)
	}
	for k, paths := range m.plan.Leans {
		m.plan.Leans[k] = storepath.SortUnique(paths)
	}
	return nil
}
