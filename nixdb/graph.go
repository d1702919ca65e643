package nixdb

import (
	"bytes"
	"context"
	"fmt"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/storepath"
)

// Graph is everything valid at one moment with what refers to what, in memory:
// about 100 bytes for a path, 4 for a reference, and 8 more for a path's size. Paths are
// numbered from 0, in their order. It does not change.
type Graph struct {
	paths    storepath.Table
	rows     []int64
	sizes    []uint64 // nil: not asked for
	refs     edges
	derivers []int32 // -1: unknown or not valid; nil: that holds for all
	outputs  edges
	realised realised
}

// GraphOptions say what a graph is to be without.
type GraphOptions struct {
	// NoSizes leaves the sizes of NARs out, for which every row has to be read.
	NoSizes bool
}

// edges has the edges of node i in to[from[i]:upTo[i]].
type edges struct {
	from, upTo []uint32
	to         []int32
}

func newEdges(n int) edges { return edges{from: make([]uint32, n), upTo: make([]uint32, n)} }

func (e *edges) of(i int) []int32 {
	if e.from == nil {
		return nil
	}
	return e.to[e.from[i]:e.upTo[i]:e.upTo[i]]
}

// Len is the number of paths.
func (g *Graph) Len() int { return g.paths.Len() }

// Path gives the path with a number.
func (g *Graph) Path(i int) storepath.Path { return g.paths.At(i) }

// Row is the number of a path's row: those with numbers close to each other came at about
// the same time, and lie together.
func (g *Graph) Row(i int) int64 { return g.rows[i] }

// NarSize is the size of a path's NAR in bytes, 0 if unknown.
func (g *Graph) NarSize(i int) uint64 {
	if g.sizes == nil {
		return 0
	}
	return g.sizes[i]
}

// Find gives the number of a path, -1 if it is not valid.
func (g *Graph) Find(p storepath.Path) int { return g.paths.Find(p) }

// FindBases is Find for names in the store directory, of objects or of anything else. It writes to
// numbers, which is as long.
func (g *Graph) FindBases(names [][]byte, numbers []int32) { g.paths.FindBases(names, numbers) }

// References of a path. The slice belongs to the graph.
func (g *Graph) References(i int) []int32 { return g.refs.of(i) }

// Outputs gives the valid outputs of a derivation. The slice belongs to the graph.
func (g *Graph) Outputs(i int) []int32 { return g.outputs.of(i) }

// Derivation gives the valid derivation that is a path's deriver: none or one. The
// slice belongs to the graph.
func (g *Graph) Derivation(i int) []int32 {
	if g.derivers == nil || g.derivers[i] < 0 {
		return nil
	}
	return g.derivers[i : i+1 : i+1]
}

// Keeps gives what else is alive if a path is, by Nix's settings keep-outputs (a
// live derivation keeps its outputs) and keep-derivations (a live path keeps its
// deriver). nil: nothing.
//
// Source: LocalStore::collectGarbage in src/libstore/gc.cc of Nix 2.34, and
// computeFSClosure in misc.cc.
func (g *Graph) Keeps(outputs, derivations bool) func(i int) []int32 {
	outputs, derivations = outputs && len(g.outputs.to) > 0, derivations && g.derivers != nil
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

// Graph reads all of it.
func (db *DB) Graph(ctx context.Context) (*Graph, error) {
	return db.GraphWith(ctx, GraphOptions{})
}

// GraphWith reads it, but for what is not wanted.
func (db *DB) GraphWith(ctx context.Context, o GraphOptions) (*Graph, error) {
	var g *Graph
	builder := func(c *conn) *graphBuilder {
		return &graphBuilder{db: db, ctx: ctx, c: c, g: &Graph{}, withSizes: !o.NoSizes}
	}
	err := db.ask(ctx, "reading the graph of references", func(c *conn, v *view) error {
		b := builder(c)
		g = b.g
		return b.fromPages(v)
	}, func(c *conn) (err error) {
		b := builder(c)
		for _, step := range []func() error{b.readPaths, b.readRefs, b.readDetails, b.readOutputs, b.readRealised} {
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

	withSizes bool
	dir       []byte  // with its slash
	ids       []int64 // of rows, in the order of paths
	nodes     nodesByRow
	referrer  struct { // whose references are being added
		node int32
		row  int64
	}
	drvs    int    // how many derivations there are
	settled []bool // of nodes: the database has the path of an output; nil: of none
	steps   int
}

func (b *graphBuilder) tick() error {
	b.steps++
	return interrupted(b.ctx, b.steps)
}

// count is how many rows a table has: what grows bit by bit takes twice the memory.
func (b *graphBuilder) count(table string) (n int, err error) {
	err = b.c.query("select count(*) from "+table, nil, func(s *sqlite.Stmt) error {
		n = int(s.ColumnInt64(0))
		return nil
	})
	return n, err
}

// readPaths goes through the index of paths: a quarter of what the rows are, and
// in order.
func (b *graphBuilder) readPaths() error {
	rows, err := b.count("ValidPaths")
	if err != nil {
		return err
	}
	b.beginPaths(rows)
	text := make([]byte, len(b.db.o.Dir)+1+storepath.HashPartLen+1+storepath.MaxNameLen)
	err = b.c.query("select path, id from ValidPaths order by path", nil, func(s *sqlite.Stmt) error {
		id := s.ColumnInt64(1)
		if n := s.ColumnBytes(0, text); s.ColumnLen(0) <= len(text) && b.addPath(text[:n], id) {
			return b.tick()
		}
		// It is spelled in another way, or wrong.
		p, err := b.db.scanPath(s, "ValidPaths", rowKey(id))
		if err != nil {
			return err
		}
		if !b.addPath([]byte(b.db.o.Dir.Print(p)), id) {
			return &RowError{Table: "ValidPaths", Key: rowKey(id)(), Err: storepath.ErrTableFull}
		}
		return b.tick()
	})
	if err == nil {
		b.endPaths()
	}
	return err
}

func (b *graphBuilder) beginPaths(rows int) {
	b.ids = make([]int64, 0, rows)
	b.dir = []byte(string(b.db.o.Dir) + "/")
	b.g.paths.Grow(rows)
}

// addPath adds a path in the order of paths, and tells whether it could.
func (b *graphBuilder) addPath(text []byte, id int64) bool {
	base, ok := bytes.CutPrefix(text, b.dir)
	if !ok || b.g.paths.Append(base) != nil {
		return false
	}
	if bytes.HasSuffix(base, []byte(storepath.DerivationSuffix)) {
		b.drvs++
	}
	b.ids = append(b.ids, id)
	return true
}

func (b *graphBuilder) endPaths() {
	b.g.paths.Freeze()
	b.g.rows, b.nodes = b.ids, newNodesByRow(b.ids)
}

// readRefs goes through the index of references, where those of one path stand
// together.
func (b *graphBuilder) readRefs() error {
	rows, err := b.count("Refs")
	if err != nil {
		return err
	}
	b.beginRefs(rows)
	return b.c.query("select referrer, reference from Refs order by referrer", nil, func(s *sqlite.Stmt) error {
		if err := b.addRef(s.ColumnInt64(0), s.ColumnInt64(1)); err != nil {
			return err
		}
		return b.tick()
	})
}

func (b *graphBuilder) beginRefs(rows int) {
	b.g.refs = newEdges(b.g.Len())
	b.g.refs.to = make([]int32, 0, rows)
	b.referrer.node, b.referrer.row = -1, -1
}

// addRef adds a reference. Those of one path come one after the other.
func (b *graphBuilder) addRef(from, to int64) error {
	refs, by := &b.g.refs, &b.referrer
	if from != by.row {
		if by.node, by.row = b.nodes.of(from), from; by.node >= 0 {
			refs.from[by.node] = uint32(len(refs.to)) //nolint:gosec // they would not fit into memory
		}
	}
	target := b.nodes.of(to)
	if by.node < 0 || target < 0 {
		// Something alive may look dead without it.
		return &RowError{Table: "Refs", Key: fmt.Sprintf("%d, %d", from, to), Err: errNoSuchPath}
	}
	refs.to = append(refs.to, target)
	refs.upTo[by.node] = uint32(len(refs.to)) //nolint:gosec // see above
	return nil
}

// readDetails reads what only the rows have: sizes, and derivers if any of them can
// be valid. A deriver that is no path is taken for an unknown one, as it keeps
// nothing alive that way.
func (b *graphBuilder) readDetails() error {
	if !b.beginDetails() {
		return nil
	}
	return b.c.query("select id, narSize, deriver from ValidPaths", nil, func(s *sqlite.Stmt) error {
		b.addDetails(s.ColumnInt64(0), s.ColumnInt64(1), []byte(s.ColumnText(2)))
		return b.tick()
	})
}

// beginDetails tells whether there are any to be read.
func (b *graphBuilder) beginDetails() bool {
	if b.withSizes {
		b.g.sizes = make([]uint64, b.g.Len())
	}
	if b.drvs > 0 {
		b.g.derivers = make([]int32, b.g.Len())
	}
	return b.drvs > 0 || b.withSizes
}

func (b *graphBuilder) addDetails(id, narSize int64, deriver []byte) {
	i := b.nodes.of(id)
	if i < 0 {
		return
	}
	if b.withSizes {
		b.g.sizes[i] = uint64(max(0, narSize))
	}
	if b.drvs > 0 {
		b.g.derivers[i] = b.find(deriver)
	}
}

func (b *graphBuilder) readOutputs() error {
	var outputs edges
	drv, row := int32(-1), int64(-1)
	err := b.c.query("select drv, path from DerivationOutputs order by drv", nil, func(s *sqlite.Stmt) error {
		if outputs.from == nil {
			outputs, b.settled = newEdges(b.g.Len()), make([]bool, b.g.Len())
		}
		if id := s.ColumnInt64(0); id != row {
			if drv, row = b.nodes.of(id), id; drv >= 0 {
				b.settled[drv] = true
				outputs.from[drv] = uint32(len(outputs.to)) //nolint:gosec // they would not fit into memory
			}
		}
		if out := b.find([]byte(s.ColumnText(1))); drv >= 0 && out >= 0 {
			outputs.to = append(outputs.to, out)
		}
		if drv >= 0 {
			outputs.upTo[drv] = uint32(len(outputs.to)) //nolint:gosec // see above
		}
		return b.tick()
	})
	b.g.outputs = outputs
	return err
}

// find gives the node of a path, -1 if there is none.
func (b *graphBuilder) find(text []byte) int32 {
	if len(text) == 0 {
		return -1
	}
	if base, ok := bytes.CutPrefix(text, b.dir); ok {
		if i := b.g.paths.FindBase(base); i >= 0 {
			return int32(i) //nolint:gosec // a number of a node
		}
	}
	p, err := b.db.o.Dir.Parse(string(text)) // it may be spelled in another way
	if err != nil {
		return -1
	}
	return int32(b.g.Find(p)) //nolint:gosec // a number of a node
}
