package nixdb

import (
	"maps"
	"slices"

	"zombiezen.com/go/sqlite"
)

// loadedRefs is the references of what one load registers, to look for cycles.
type loadedRefs struct {
	base int64    // the numbers of new paths are greater
	ids  []int64  // of the paths, as they came
	from []uint32 // where the references of each begin in to
	to   []int64
}

// add notes the references of a path, without those to itself.
func (g *loadedRefs) add(id int64, refs [][2]int64) {
	g.ids = append(g.ids, id)
	g.from = append(g.from, uint32(len(g.to)))
	for _, r := range refs {
		if r[1] != id {
			g.to = append(g.to, r[1])
		}
	}
}

// forget makes room for what is added next.
func (g *loadedRefs) forget() {
	g.ids, g.from, g.to = g.ids[:0], g.from[:0], g.to[:0]
}

// readAll takes all references of new paths from the database.
func (g *loadedRefs) readAll(c *conn) error {
	g.forget()
	return c.query("select referrer, reference from Refs where referrer > ? order by referrer",
		func(s *sqlite.Stmt) { s.BindInt64(1, g.base) },
		func(s *sqlite.Stmt) error {
			g.add(s.ColumnInt64(0), [][2]int64{{s.ColumnInt64(0), s.ColumnInt64(1)}})
			return nil
		})
}

func (g *loadedRefs) of(i int32) []int64 {
	if int(i)+1 == len(g.from) {
		return g.to[g.from[i]:]
	}
	return g.to[g.from[i]:g.from[i+1]]
}

// cycle gives the numbers of paths that refer to each other in a circle, nil if
// there are none. Each refers to the next, the last to the first.
func (g *loadedRefs) cycle() []int64 {
	if len(g.to) == 0 {
		return nil
	}
	index, unique := g.index()
	if !unique {
		merged := g.merge()
		return merged.cycle()
	}
	s := cycleSearch{g: g, index: index, state: make([]uint8, len(g.ids))}
	for start := range g.ids {
		if s.state[start] == unseen {
			if cycle := s.from(int32(start)); cycle != nil {
				return cycle
			}
		}
	}
	return nil
}

// nodeIndex finds the node of a number: in a slice for the new paths, whose numbers
// are close together, and in a map for the others.
type nodeIndex struct {
	base int64
	new  []int32 // -1: none
	old  map[int64]int32
}

func (x *nodeIndex) get(id int64) (int32, bool) {
	if id <= x.base {
		i, ok := x.old[id]
		return i, ok
	}
	i := x.new[id-x.base-1]
	return i, i >= 0
}

// index also tells whether each number came once.
func (g *loadedRefs) index() (x nodeIndex, unique bool) {
	x = nodeIndex{base: g.base, old: map[int64]int32{}}
	if last := max(slices.Max(g.ids), slices.Max(g.to)); last > g.base {
		x.new = make([]int32, last-g.base)
	}
	for i := range x.new {
		x.new[i] = -1
	}
	for i, id := range g.ids {
		if _, double := x.get(id); double {
			return x, false
		}
		if id <= g.base {
			x.old[id] = int32(i)
		} else {
			x.new[id-g.base-1] = int32(i)
		}
	}
	return x, true
}

// merge puts together the references of paths that came more than once.
func (g *loadedRefs) merge() *loadedRefs {
	refs := map[int64][][2]int64{}
	for i, id := range g.ids {
		list := refs[id]
		for _, to := range g.of(int32(i)) {
			list = append(list, [2]int64{id, to})
		}
		refs[id] = list
	}
	m := &loadedRefs{base: g.base}
	for _, id := range slices.Sorted(maps.Keys(refs)) {
		m.add(id, refs[id])
	}
	return m
}

// cycleSearch walks depth first.
type cycleSearch struct {
	g     *loadedRefs
	index nodeIndex
	state []uint8
	way   []wayPoint // from the start to here
}

type wayPoint struct {
	node int32
	next int32 // of its references
}

// States of a node.
const (
	unseen uint8 = iota
	onTheWay
	done
)

func (s *cycleSearch) enter(node int32) {
	s.state[node] = onTheWay
	s.way = append(s.way, wayPoint{node: node})
}

func (s *cycleSearch) from(start int32) []int64 {
	s.enter(start)
	for len(s.way) > 0 {
		top := &s.way[len(s.way)-1]
		refs := s.g.of(top.node)
		if int(top.next) == len(refs) {
			s.state[top.node] = done
			s.way = s.way[:len(s.way)-1]
			continue
		}
		to, ok := s.index.get(refs[top.next])
		top.next++
		switch {
		case !ok: // was valid before
		case s.state[to] == unseen:
			s.enter(to)
		case s.state[to] == onTheWay:
			return s.circle(to)
		}
	}
	return nil
}

// circle is the end of the way, from where it came by the first time.
func (s *cycleSearch) circle(node int32) []int64 {
	var ids []int64
	i := slices.IndexFunc(s.way, func(p wayPoint) bool { return p.node == node })
	for _, p := range s.way[i:] {
		ids = append(ids, s.g.ids[p.node])
	}
	return ids
}
