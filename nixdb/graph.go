package nixdb

import (
	"context"
	"fmt"
	"slices"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/storepath"
)

// Graph is everything valid at one moment with what refers to what, in memory:
// about 120 bytes for a path and 4 for a reference. Paths are numbered from 0, in
// their order. It does not change.
type Graph struct {
	paths    []storepath.Path
	sizes    []uint64
	refs     edges
	derivers []int32 // -1: unknown or not valid
	outputs  edges
}

// edges has the edges of node i in to[from[i]:from[i+1]].
type edges struct {
	from []uint32
	to   []int32
}

func (e *edges) of(i int) []int32 { return e.to[e.from[i]:e.from[i+1]:e.from[i+1]] }

// Len is the number of paths.
func (g *Graph) Len() int { return len(g.paths) }

// Path gives the path with a number.
func (g *Graph) Path(i int) storepath.Path { return g.paths[i] }

// NarSize is the size of a path's NAR in bytes, 0 if unknown.
func (g *Graph) NarSize(i int) uint64 { return g.sizes[i] }

// Find gives the number of a path, -1 if it is not valid.
func (g *Graph) Find(p storepath.Path) int {
	if i, ok := slices.BinarySearchFunc(g.paths, p, storepath.Compare); ok {
		return i
	}
	return -1
}

// References of a path. The slice belongs to the graph.
func (g *Graph) References(i int) []int32 { return g.refs.of(i) }

// Outputs gives the valid outputs of a derivation. The slice belongs to the graph.
func (g *Graph) Outputs(i int) []int32 { return g.outputs.of(i) }

// Derivation gives the valid derivation that a path is an output of and that is
// its deriver: none or one. The slice belongs to the graph.
func (g *Graph) Derivation(i int) []int32 {
	d := g.derivers[i]
	if d < 0 || !slices.Contains(g.outputs.of(int(d)), int32(i)) {
		return nil
	}
	return g.derivers[i : i+1 : i+1]
}

// Keeps gives what else is alive if a path is, by Nix's settings keep-outputs (a
// live derivation keeps its outputs) and keep-derivations (a live output keeps its
// derivation). nil: nothing.
//
// Source: LocalStore::collectGarbage in src/libstore/gc.cc of Nix 2.34.
func (g *Graph) Keeps(outputs, derivations bool) func(i int) []int32 {
	switch {
	case outputs && derivations:
		return func(i int) []int32 {
			if d := g.Derivation(i); d != nil {
				return append(d, g.Outputs(i)...)
			}
			return g.Outputs(i)
		}
	case outputs:
		return g.Outputs
	case derivations:
		return g.Derivation
	}
	return nil
}

// Graph reads it.
func (db *DB) Graph(ctx context.Context) (*Graph, error) {
	var g *Graph
	err := db.read(ctx, "reading the graph of references", func(c *conn) (err error) {
		b := graphBuilder{db: db, ctx: ctx, c: c, g: &Graph{}}
		for _, step := range []func() error{b.readPaths, b.readRefs, b.readDerivers, b.readOutputs} {
			if err := step(); err != nil {
				return err
			}
		}
		g = b.g
		return nil
	})
	return g, err
}

// graphBuilder reads a graph within one transaction.
type graphBuilder struct {
	db  *DB
	ctx context.Context //nolint:containedctx // lives as long as one call
	c   *conn
	g   *Graph

	ids   []int64 // of the rows, ascending
	nodes []int32 // the node of each of ids
	dense []int32 // node by number minus ids[0]; nil when the numbers have big gaps
	steps int
}

func (b *graphBuilder) tick() error {
	b.steps++
	return interrupted(b.ctx, b.steps)
}

func (b *graphBuilder) readPaths() error {
	var paths []storepath.Path
	var sizes []uint64
	err := b.c.query("select path, id, narSize from ValidPaths order by id", nil, func(s *sqlite.Stmt) error {
		id := s.ColumnInt64(1)
		p, err := b.db.scanPath(s, "ValidPaths", rowKey(id))
		if err != nil {
			return err
		}
		paths, b.ids = append(paths, p), append(b.ids, id)
		sizes = append(sizes, uint64(max(0, s.ColumnInt64(2))))
		return b.tick()
	})
	if err != nil {
		return err
	}
	n := len(paths)
	if n > 1<<31-2 {
		return failure{fmt.Errorf("%d paths are too many", n)}
	}
	order := make([]int32, n) // row of each node
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(x, y int32) int { return storepath.Compare(paths[x], paths[y]) })
	b.nodes = make([]int32, n)
	b.g.paths, b.g.sizes = make([]storepath.Path, n), make([]uint64, n)
	for node, row := range order {
		b.nodes[row] = int32(node)
		b.g.paths[node], b.g.sizes[node] = paths[row], sizes[row]
	}
	b.makeDense()
	return nil
}

// makeDense makes the quick way from numbers to nodes, if it is not wasteful.
func (b *graphBuilder) makeDense() {
	n := len(b.ids)
	if n == 0 || b.ids[n-1]-b.ids[0] > 4*int64(n)+1024 {
		return
	}
	b.dense = make([]int32, b.ids[n-1]-b.ids[0]+1)
	for i := range b.dense {
		b.dense[i] = -1
	}
	for i, id := range b.ids {
		b.dense[id-b.ids[0]] = b.nodes[i]
	}
}

// node gives the node of a number, -1 if there is none.
func (b *graphBuilder) node(id int64) int32 {
	if b.dense != nil {
		if i := id - b.ids[0]; i >= 0 && i < int64(len(b.dense)) {
			return b.dense[i]
		}
		return -1
	}
	if i, ok := slices.BinarySearch(b.ids, id); ok {
		return b.nodes[i]
	}
	return -1
}

// readEdges reads pairs of nodes from a query and puts them in order. pair gives
// -1 for what is not in the graph.
func (b *graphBuilder) readEdges(sql string, pair func(s *sqlite.Stmt) (from, to int32, err error)) (edges, error) {
	var from, to []int32
	err := b.c.query(sql, nil, func(s *sqlite.Stmt) error {
		f, t, err := pair(s)
		if err != nil {
			return err
		}
		if f >= 0 && t >= 0 {
			from, to = append(from, f), append(to, t)
		}
		return b.tick()
	})
	if err != nil {
		return edges{}, err
	}
	e := edges{from: make([]uint32, b.g.Len()+1), to: make([]int32, len(to))}
	for _, f := range from {
		e.from[f+1]++
	}
	for i := range b.g.Len() {
		e.from[i+1] += e.from[i]
	}
	next := slices.Clone(e.from)
	for i, f := range from {
		e.to[next[f]] = to[i]
		next[f]++
	}
	return e, nil
}

func (b *graphBuilder) readRefs() (err error) {
	b.g.refs, err = b.readEdges("select referrer, reference from Refs", func(s *sqlite.Stmt) (int32, int32, error) {
		from, to := s.ColumnInt64(0), s.ColumnInt64(1)
		f, t := b.node(from), b.node(to)
		if f < 0 || t < 0 {
			// Something alive may look dead without it.
			return f, t, &RowError{Table: "Refs", Key: fmt.Sprintf("%d, %d", from, to), Err: errNoSuchPath}
		}
		return f, t, nil
	})
	return err
}

// readDerivers takes a deriver that is no path for an unknown one, as it keeps
// nothing alive that way.
func (b *graphBuilder) readDerivers() error {
	b.g.derivers = make([]int32, b.g.Len())
	for i := range b.g.derivers {
		b.g.derivers[i] = -1
	}
	return b.c.query("select id, deriver from ValidPaths where deriver is not null", nil, func(s *sqlite.Stmt) error {
		if i := b.node(s.ColumnInt64(0)); i >= 0 {
			b.g.derivers[i] = b.find(s.ColumnText(1))
		}
		return b.tick()
	})
}

func (b *graphBuilder) readOutputs() (err error) {
	b.g.outputs, err = b.readEdges("select drv, path from DerivationOutputs", func(s *sqlite.Stmt) (int32, int32, error) {
		return b.node(s.ColumnInt64(0)), b.find(s.ColumnText(1)), nil
	})
	return err
}

func (b *graphBuilder) find(text string) int32 {
	p, err := b.db.o.Dir.Parse(text)
	if err != nil {
		return -1
	}
	return int32(b.g.Find(p))
}
