package fusefs

import (
	"strings"
)

// Len is the number of nodes.
func (t *Tree) Len() uint32 { return uint32(len(t.nodes) / treeRecord) }

// Has tells whether there is a node with that number.
func (t *Tree) Has(n uint32) bool { return n < t.Len() }

// Node describes a node.
func (t *Tree) Node(n uint32) Node {
	r := t.record(n)
	switch kind := r.kind(); kind {
	case Symlink:
		at, size := r.u64(16), uint64(r.u32(8))
		return Node{Kind: kind, Size: int64(size), Target: string(t.names[at : at+size])}
	case Directory:
		return Node{Kind: kind}
	default:
		return Node{Kind: kind, Size: int64(r.u64(16))}
	}
}

// Kind is that of a node.
func (t *Tree) Kind(n uint32) Kind { return t.record(n).kind() }

// Name is that of an entry; "" for the root.
func (t *Tree) Name(n uint32) string {
	r := t.record(n)
	at := r.u32(0)
	return string(t.names[at : at+uint32(r[12])])
}

// Parent is the directory that a node is in; the root is in itself.
func (t *Tree) Parent(n uint32) uint32 { return t.record(n).u32(4) }

// Entries are the numbers of a directory's entries: from first up to before end. There are none
// in anything else.
func (t *Tree) Entries(dir uint32) (first, end uint32) {
	r := t.record(dir)
	if r.kind() != Directory {
		return 0, 0
	}
	first = uint32(r.u64(16))
	return first, first + r.u32(8)
}

// Find finds an entry of a directory.
func (t *Tree) Find(dir uint32, name string) (uint32, bool) {
	first, end := t.Entries(dir)
	low, high := first, end
	for low < high {
		mid := low + (high-low)/2
		if t.compare(mid, name) < 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low, low < end && t.compare(low, name) == 0
}

func (t *Tree) compare(n uint32, name string) int {
	r := t.record(n)
	at := r.u32(0)
	return strings.Compare(string(t.names[at:at+uint32(r[12])]), name)
}

// Path is the names on the way from the root to a node, joined by slashes; "" for
// the root.
func (t *Tree) Path(n uint32) string {
	var names [maxDepth]string
	at := len(names)
	for ; n != 0; n = t.Parent(n) {
		at--
		names[at] = t.Name(n)
	}
	return strings.Join(names[at:], "/")
}
