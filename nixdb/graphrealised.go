package nixdb

import (
	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/storepath"
)

// realised is what a graph knows of content-addressed derivations, whose outputs have no path
// before they are built.
type realised struct {
	drvs []int32 // derivations of which the database has no output's path
	outs []int32 // what realisations led to
}

// Unsettled gives the derivations of which the database has no output's path, if there are
// realisations: those may tell what they made. The slice belongs to the graph.
func (g *Graph) Unsettled() []int32 { return g.realised.drvs }

// Realised gives the valid paths to which realisations lead, some of them more than once. The
// slice belongs to the graph.
func (g *Graph) Realised() []int32 { return g.realised.outs }

// AddOutputs says what an unsettled derivation made; what is not valid is left out. It is
// called once for each, before others use the graph.
func (g *Graph) AddOutputs(drv int32, outs []int32) {
	if g.outputs.from == nil {
		g.outputs = newEdges(g.Len())
	}
	g.outputs.from[drv] = uint32(len(g.outputs.to)) //nolint:gosec // they would not fit into memory
	g.outputs.to = append(g.outputs.to, outs...)
	g.outputs.upTo[drv] = uint32(len(g.outputs.to)) //nolint:gosec // see above
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
		if i := b.nodes.of(s.ColumnInt64(0)); i >= 0 {
			b.g.realised.outs = append(b.g.realised.outs, i)
		}
		return b.tick()
	})
	if err != nil || len(b.g.realised.outs) == 0 {
		return err
	}
	for i := range b.g.Len() {
		if (b.settled == nil || !b.settled[i]) && b.g.Path(i).IsDerivation() {
			b.g.realised.drvs = append(b.g.realised.drvs, int32(i)) //nolint:gosec // a number of a node
		}
	}
	return nil
}

// FindAll gives the numbers of those of paths that are valid.
func (g *Graph) FindAll(paths map[string]storepath.Path) (out []int32) {
	for _, p := range paths {
		if i := g.Find(p); i >= 0 {
			out = append(out, int32(i)) //nolint:gosec // a number of a node
		}
	}
	return out
}
