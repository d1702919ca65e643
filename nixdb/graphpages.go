package nixdb

import (
	"github.com/strata-nix/strata/nixdb/btree"
)

// fromPages fills a graph from the pages of a view. Whatever is not as expected is an error,
// and then SQLite is asked.
func (b *graphBuilder) fromPages(v *view) error {
	for _, step := range []func(*view) error{b.pathsFromPages, b.refsFromPages, b.detailsFromPages, b.outputsFromPages, b.realisedFromPages} {
		if err := step(v); err != nil {
			return err
		}
	}
	return nil
}

func (b *graphBuilder) pathsFromPages(v *view) error {
	tree := v.file.Tree(v.layout.pathIndex)
	n, err := tree.Len()
	if err != nil {
		return err
	}
	b.beginPaths(n)
	err = tree.All(func(r btree.Record) (bool, error) {
		var col [2]btree.Value // path, number
		if n, err := r.Columns(col[:]); err != nil || n != 2 || col[0].Kind != btree.TextKind || col[1].Kind != btree.Integer {
			return false, errUnseen
		}
		if !b.addPath(col[0].Text, col[1].Int) {
			return false, errUnseen
		}
		return true, b.tick()
	})
	if err == nil {
		b.endPaths()
	}
	return err
}

func (b *graphBuilder) refsFromPages(v *view) error {
	tree := v.file.Tree(v.layout.refsIndex)
	n, err := tree.Len()
	if err != nil {
		return err
	}
	b.beginRefs(n)
	return tree.All(func(r btree.Record) (bool, error) {
		var col [2]int64 // referrer, reference
		if !r.Ints(col[:]) {
			return false, errUnseen
		}
		if err := b.addRef(col[0], col[1]); err != nil {
			return false, err
		}
		return true, b.tick()
	})
}

func (b *graphBuilder) detailsFromPages(v *view) error {
	if !b.beginDetails() {
		return nil
	}
	return v.file.Tree(v.layout.paths).Rows(0, func(id int64, r btree.Record) (bool, error) {
		var columns [maxColumns]btree.Value
		if _, err := r.Columns(columns[:v.layout.width]); err != nil {
			return false, err
		}
		size, deriver := columns[v.layout.at[colNarSize]], columns[v.layout.at[colDeriver]]
		if size.Kind != btree.Integer && size.Kind != btree.Null || deriver.Kind != btree.TextKind && deriver.Kind != btree.Null {
			return false, errUnseen
		}
		b.addDetails(id, size.Int, deriver.Text)
		return true, b.tick()
	})
}

// outputsFromPages reads the table in its own order, in which the outputs of a derivation need not
// stand together.
func (b *graphBuilder) outputsFromPages(v *view) error {
	if b.drvs == 0 {
		return nil
	}
	if v.layout.outputs == 0 {
		return errUnseen
	}
	type output struct{ drv, out int32 }
	var list []output
	to := newEdges(b.g.Len())
	if v.layout.realisations {
		b.settled = make([]bool, b.g.Len())
	}
	err := v.file.Tree(v.layout.outputs).Rows(0, func(_ int64, r btree.Record) (bool, error) {
		var col [3]btree.Value // derivation, name, path
		if n, err := r.Columns(col[:]); err != nil || n != 3 || col[0].Kind != btree.Integer || col[2].Kind != btree.TextKind {
			return false, errUnseen
		}
		drv, out := b.nodes.of(col[0].Int), b.find(col[2].Text)
		if drv >= 0 && b.settled != nil {
			b.settled[drv] = true
		}
		if drv >= 0 && out >= 0 {
			list = append(list, output{drv, out})
			to.upTo[drv]++
		}
		return true, b.tick()
	})
	if err != nil || len(list) == 0 {
		return err
	}
	next := uint32(0)
	for i, n := range to.upTo {
		to.from[i], to.upTo[i] = next, next
		next += n
	}
	to.to = make([]int32, len(list))
	for _, o := range list {
		to.to[to.upTo[o.drv]] = o.out
		to.upTo[o.drv]++
	}
	b.g.outputs = to
	return nil
}
