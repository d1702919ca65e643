package nixdb

import (
	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/nixdb/btree"
)

// realised is what a graph knows of content-addressed derivations, whose outputs have no path
// before they are built.
type realised struct {
	drvs []int32 // derivations of which the database has no output's path
	outs []int32 // what realisations led to
	// Where outs is among the edges of outputs, if it is.
	from, upTo uint32
}

// Unsettled gives the derivations of which the database has no output's path, if there are
// realisations: those may tell what they made. The slice belongs to the graph.
func (g *Graph) Unsettled() []int32 { return g.realised.drvs }

// AddOutputs says what an unsettled derivation made; what is not valid is left out. It is
// called once for each, before others use the graph.
func (g *Graph) AddOutputs(drv int32, outs []int32) {
	g.outputs.from[drv], g.outputs.upTo[drv] = g.addEdges(outs)
}

// AddAnyOutputs is AddOutputs for a derivation that may have made anything to which
// realisations lead.
func (g *Graph) AddAnyOutputs(drv int32) {
	r := &g.realised
	if r.from == r.upTo {
		r.from, r.upTo = g.addEdges(r.outs)
	}
	g.outputs.from[drv], g.outputs.upTo[drv] = r.from, r.upTo
}

func (g *Graph) addEdges(outs []int32) (from, upTo uint32) {
	if g.outputs.from == nil {
		g.outputs = newEdges(g.Len())
	}
	from = uint32(len(g.outputs.to)) //nolint:gosec // they would not fit into memory
	g.outputs.to = append(g.outputs.to, outs...)
	return from, uint32(len(g.outputs.to)) //nolint:gosec // see above
}

// readRealised finds out which derivations only realisations tell of.
func (b *graphBuilder) readRealised() error {
	if b.drvs == 0 {
		return nil
	}
	if has, err := b.c.hasTable("Realisations"); err != nil || !has {
		return err
	}
	err := b.c.query("select outputPath from Realisations", nil, func(s *sqlite.Stmt) error {
		b.addRealised(s.ColumnInt64(0))
		return b.tick()
	})
	if err == nil {
		b.endRealised()
	}
	return err
}

func (b *graphBuilder) addRealised(out int64) {
	if i := b.nodes.of(out); i >= 0 {
		b.g.realised.outs = append(b.g.realised.outs, i)
	}
}

// endRealised finds the derivations of which no output's path is known.
func (b *graphBuilder) endRealised() {
	if len(b.g.realised.outs) == 0 {
		return
	}
	for i := range b.g.Len() {
		if (b.settled == nil || !b.settled[i]) && b.g.Path(i).IsDerivation() {
			b.g.realised.drvs = append(b.g.realised.drvs, int32(i)) //nolint:gosec // a number of a node
		}
	}
}

// realisedFromPages is readRealised by the pages.
func (b *graphBuilder) realisedFromPages(v *view) error {
	if b.drvs == 0 || !v.layout.realisations {
		return nil
	}
	if v.layout.realised == 0 {
		return errUnseen
	}
	err := v.file.Tree(v.layout.realised).Rows(0, func(_ int64, r btree.Record) (bool, error) {
		var col [4]btree.Value // number, derivation, output, path
		if n, err := r.Columns(col[:]); err != nil || n != 4 || col[3].Kind != btree.Integer {
			return false, errUnseen
		}
		b.addRealised(col[3].Int)
		return true, b.tick()
	})
	if err == nil {
		b.endRealised()
	}
	return err
}
