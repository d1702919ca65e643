package nixdb

import (
	"cmp"
	"slices"
)

// nodesByRow finds nodes of a graph by the numbers of their rows.
type nodesByRow struct {
	first int64
	dense []int32 // node by number minus first, -1 for nobody; nil when the numbers have big gaps
	rows  []rowNode
}

type rowNode struct {
	id   int64
	node int32
}

// newNodesByRow is for the rows with the numbers ids, those of the nodes 0, 1, 2, …
func newNodesByRow(ids []int64) nodesByRow {
	if len(ids) == 0 {
		return nodesByRow{}
	}
	n := nodesByRow{first: slices.Min(ids)}
	// Numbers come from a database, and may be any.
	if span := uint64(slices.Max(ids)) - uint64(n.first); span <= 4*uint64(len(ids))+1024 { //nolint:gosec // wraps around as it should
		n.dense = slices.Repeat([]int32{-1}, int(span)+1) //nolint:gosec // just compared
		for i, id := range ids {
			n.dense[id-n.first] = int32(i) //nolint:gosec // a number of a node
		}
		return n
	}
	n.rows = make([]rowNode, len(ids))
	for i, id := range ids {
		n.rows[i] = rowNode{id, int32(i)} //nolint:gosec // a number of a node
	}
	slices.SortFunc(n.rows, func(a, b rowNode) int { return cmp.Compare(a.id, b.id) })
	return n
}

// of gives the node of a row, -1 if there is none.
func (n *nodesByRow) of(id int64) int32 {
	if n.dense != nil {
		if i := uint64(id) - uint64(n.first); i < uint64(len(n.dense)) { //nolint:gosec // wraps around as it should
			return n.dense[i]
		}
		return -1
	}
	if i, ok := slices.BinarySearchFunc(n.rows, id, func(r rowNode, id int64) int { return cmp.Compare(r.id, id) }); ok {
		return n.rows[i].node
	}
	return -1
}
