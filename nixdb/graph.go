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

// FindBase is Find for the name of an object in the store directory, or of anything else.
func (g *Graph) FindBase(name []byte) int { return g.paths.FindBase(name) }

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
	err := db.read(ctx, "reading the graph of references", func(c *conn) (err error) {
		b := graphBuilder{db: db, ctx: ctx, c: c, g: &Graph{}, withSizes: !o.NoSizes}
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
	nodes     nodesByRow
	drvs      int    // how many derivations there are
	settled   []bool // of nodes: the database has the path of an output; nil: of none
	steps     int
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
	ids := make([]int64, 0, rows)
	b.g.paths.Grow(rows)
	dir := []byte(string(b.db.o.Dir) + "/")
	text := make([]byte, len(dir)+storepath.HashPartLen+1+storepath.MaxNameLen)
	err = b.c.query("select path, id from ValidPaths order by path", nil, func(s *sqlite.Stmt) error {
		id := s.ColumnInt64(1)
		base, ok := bytes.CutPrefix(text[:s.ColumnBytes(0, text)], dir)
		if !ok || s.ColumnLen(0) > len(text) || b.g.paths.Append(base) != nil {
			// It is spelled in another way, or wrong.
			p, err := b.db.scanPath(s, "ValidPaths", rowKey(id))
			if err == nil {
				err = b.g.paths.Append([]byte(p.Base()))
			}
			if err != nil {
				return err
			}
			base = []byte(p.Base())
		}
		if bytes.HasSuffix(base, []byte(storepath.DerivationSuffix)) {
			b.drvs++
		}
		ids = append(ids, id)
		return b.tick()
	})
	if err != nil {
		return err
	}
	b.g.paths.Freeze()
	b.g.rows, b.nodes = ids, newNodesByRow(ids)
	return nil
}

// readRefs goes through the index of references, where those of one path stand
// together.
func (b *graphBuilder) readRefs() error {
	rows, err := b.count("Refs")
	if err != nil {
		return err
	}
	refs := newEdges(b.g.Len())
	refs.to = make([]int32, 0, rows)
	node, row := int32(-1), int64(-1)
	err = b.c.query("select referrer, reference from Refs order by referrer", nil, func(s *sqlite.Stmt) error {
		from, to := s.ColumnInt64(0), s.ColumnInt64(1)
		if from != row {
			if node, row = b.nodes.of(from), from; node >= 0 {
				refs.from[node] = uint32(len(refs.to)) //nolint:gosec // they would not fit into memory
			}
		}
		target := b.nodes.of(to)
		if node < 0 || target < 0 {
			// Something alive may look dead without it.
			return &RowError{Table: "Refs", Key: fmt.Sprintf("%d, %d", from, to), Err: errNoSuchPath}
		}
		refs.to = append(refs.to, target)
		refs.upTo[node] = uint32(len(refs.to)) //nolint:gosec // see above
		return b.tick()
	})
	b.g.refs = refs
	return err
}

// readDetails reads what only the rows have: sizes, and derivers if any of them can
// be valid. A deriver that is no path is taken for an unknown one, as it keeps
// nothing alive that way.
func (b *graphBuilder) readDetails() error {
	if b.drvs == 0 && !b.withSizes {
		return nil
	}
	if b.withSizes {
		b.g.sizes = make([]uint64, b.g.Len())
	}
	if b.drvs > 0 {
		b.g.derivers = make([]int32, b.g.Len())
	}
	return b.c.query("select id, narSize, deriver from ValidPaths", nil, func(s *sqlite.Stmt) error {
		i := b.nodes.of(s.ColumnInt64(0))
		if i < 0 {
			return b.tick()
		}
		if b.withSizes {
			b.g.sizes[i] = uint64(max(0, s.ColumnInt64(1)))
		}
		if b.drvs > 0 {
			b.g.derivers[i] = b.find(s.ColumnText(2))
		}
		return b.tick()
	})
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
		if out := b.find(s.ColumnText(1)); drv >= 0 && out >= 0 {
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

func (b *graphBuilder) find(text string) int32 {
	p, err := b.db.o.Dir.Parse(text)
	if err != nil {
		return -1
	}
	return int32(b.g.Find(p)) //nolint:gosec // a number of a node
}
