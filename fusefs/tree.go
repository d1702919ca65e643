package fusefs

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
)

// Kind is what a node is.
type Kind uint8

// The kinds.
const (
	Directory  Kind = 1
	Regular    Kind = 2
	Executable Kind = 3 // a regular file with the executable bit
	Symlink    Kind = 4
)

// A Node is what a tree says of one of its nodes.
type Node struct {
	Kind Kind
	// Size in bytes: of a file's contents, of a symlink's target; 0 for a directory.
	Size int64
	// Target of a symlink.
	Target string
}

// A Tree is the shape of an object: names, kinds, sizes and targets, and not the contents
// of files. Its nodes are numbered: 0 is the root, and the entries of a directory follow each other in
// the order of their names, directories that come first having theirs first. The same tree
// has the same numbers always.
//
// A Tree is one piece of memory, which may be a mapped file; see [Tree.Encoded].
type Tree struct {
	data  []byte // all of it
	nodes []byte // the records
	names []byte // names and targets
}

// Form of an encoded tree, all numbers little-endian:
//
//	magic    8 bytes "strtree1"
//	nodes    uint32   number of records
//	names    uint32   bytes of names
//	records  24 bytes each, see below
//	names    names and symlink targets, one after the other
//
//	record:  0 uint32 where the name begins in names (root: 0)
//	         4 uint32 number of the parent (root: 0)
//	         8 uint32 directory: number of entries; symlink: length of the target
//	        12 uint8  length of the name (root: 0)
//	        13 uint8  Kind
//	        14 uint16 0
//	        16 uint64 file: size; directory: number of the first entry; symlink: where the target begins
const (
	treeMagic  = "strtree1"
	treeHeader = 16
	treeRecord = 24
)

// Limits of a tree, which are those of NARs: names of 255 bytes, targets of 4095, and 64
// nodes on a way from the root, itself included.
const (
	maxName   = 255
	maxTarget = 4095
	maxDepth  = 64
)

// ErrTree is the cause of every error about a tree that cannot be one.
var ErrTree = errors.New("malformed tree")

// BuildTree makes a tree of anything that has its shape. entries gives the entries of
// a directory by their names, in any order.
func BuildTree[T any](root T, describe func(T) Node, entries func(T) iter.Seq2[string, T]) (*Tree, error) {
	type pending struct {
		node   T
		number uint32
		depth  int
	}
	b := treeBuilder{}
	n := describe(root)
	if err := b.add("", 0, n); err != nil {
		return nil, err
	}
	queue := []pending{{root, 0, 1}}
	for len(queue) > 0 {
		p := queue[0]
		queue = queue[1:]
		if describe(p.node).Kind != Directory {
			continue
		}
		type entry struct {
			name string
			node T
		}
		var all []entry
		for name, node := range entries(p.node) {
			all = append(all, entry{name, node})
		}
		if len(all) > 0 && p.depth == maxDepth {
			return nil, fmt.Errorf("%w: deeper than %d", ErrTree, maxDepth)
		}
		slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
		b.directory(p.number, len(all))
		for i, e := range all {
			if i > 0 && all[i-1].name == e.name {
				return nil, fmt.Errorf("%w: two entries named '%.100s'", ErrTree, e.name)
			}
			if !validName(e.name) {
				return nil, fmt.Errorf("%w: an entry named '%.100s'", ErrTree, e.name)
			}
			n := describe(e.node)
			if err := b.add(e.name, p.number, n); err != nil {
				return nil, err
			}
			if n.Kind == Directory {
				queue = append(queue, pending{e.node, b.count - 1, p.depth + 1})
			}
		}
	}
	return b.tree()
}

type treeBuilder struct {
	records, names []byte
	count          uint32
}

func (b *treeBuilder) add(name string, parent uint32, n Node) error {
	if b.count == MaxNodes || len(b.names)+len(name)+len(n.Target) > math.MaxUint32 {
		return fmt.Errorf("%w: too many nodes", ErrTree)
	}
	var r [treeRecord]byte
	binary.LittleEndian.PutUint32(r[0:], uint32(len(b.names)))
	binary.LittleEndian.PutUint32(r[4:], parent)
	r[12], r[13] = byte(len(name)), byte(n.Kind)
	b.names = append(b.names, name...)
	switch n.Kind {
	case Directory:
	case Regular, Executable:
		if n.Size < 0 {
			return fmt.Errorf("%w: a file of %d bytes", ErrTree, n.Size)
		}
		binary.LittleEndian.PutUint64(r[16:], uint64(n.Size))
	case Symlink:
		if len(n.Target) == 0 || len(n.Target) > maxTarget || strings.IndexByte(n.Target, 0) >= 0 {
			return fmt.Errorf("%w: a symlink to '%.100s'", ErrTree, n.Target)
		}
		binary.LittleEndian.PutUint32(r[8:], uint32(len(n.Target)))
		binary.LittleEndian.PutUint64(r[16:], uint64(len(b.names)))
		b.names = append(b.names, n.Target...)
	default:
		return fmt.Errorf("%w: a node of kind %d", ErrTree, n.Kind)
	}
	b.records = append(b.records, r[:]...)
	b.count++
	return nil
}

// directory notes that the entries of a directory follow.
func (b *treeBuilder) directory(number uint32, entries int) {
	r := b.records[int(number)*treeRecord:]
	binary.LittleEndian.PutUint32(r[8:], uint32(entries))
	binary.LittleEndian.PutUint64(r[16:], uint64(b.count))
}

func (b *treeBuilder) tree() (*Tree, error) {
	data := make([]byte, 0, treeHeader+len(b.records)+len(b.names))
	data = append(data, treeMagic...)
	data = binary.LittleEndian.AppendUint32(data, b.count)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(b.names)))
	data = append(append(data, b.records...), b.names...)
	return DecodeTree(data)
}

func validName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxName && strings.IndexByte(name, 0) < 0 && strings.IndexByte(name, '/') < 0
}
