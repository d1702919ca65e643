package fusefs

import (
	"encoding/binary"
	"fmt"
)

// Encoded is the tree as bytes, which DecodeTree reads. They are the same for the
// same tree. Nobody may change them.
func (t *Tree) Encoded() []byte { return t.data }

// EncodedSize is how many bytes the encoded tree has that data begins with, perhaps more than there are.
func EncodedSize(data []byte) (int, error) {
	if len(data) < treeHeader || string(data[:8]) != treeMagic {
		return 0, fmt.Errorf("%w: no magic", ErrTree)
	}
	return treeHeader + int(binary.LittleEndian.Uint32(data[8:]))*treeRecord + int(binary.LittleEndian.Uint32(data[12:])), nil
}

// DecodeTree reads an encoded tree, wherever it comes from. The tree keeps using data.
func DecodeTree(data []byte) (*Tree, error) {
	bad := func(format string, args ...any) (*Tree, error) {
		return nil, fmt.Errorf("%w: %s", ErrTree, fmt.Sprintf(format, args...))
	}
	if len(data) < treeHeader || string(data[:8]) != treeMagic {
		return bad("no magic")
	}
	count, names := binary.LittleEndian.Uint32(data[8:]), binary.LittleEndian.Uint32(data[12:])
	if count == 0 || count > MaxNodes || uint64(len(data)) != treeHeader+uint64(count)*treeRecord+uint64(names) {
		return bad("%d nodes and %d bytes of names in %d bytes", count, names, len(data))
	}
	end := treeHeader + int(count)*treeRecord
	t := &Tree{data: data, nodes: data[treeHeader:end:end], names: data[end:]}
	if err := t.check(); err != nil {
		return nil, err
	}
	return t, nil
}

// check looks at everything that the other methods rely on, and that the tree has the
// one form that BuildTree gives it.
func (t *Tree) check() error {
	bad := func(n uint32, what string) error { return fmt.Errorf("%w: node %d: %s", ErrTree, n, what) }
	next, names, depth := uint64(1), uint64(0), 1
	last := uint64(1) // where the nodes of this depth end
	for n := range t.Len() {
		if uint64(n) == last {
			if depth++; depth > maxDepth {
				return bad(n, "too deep")
			}
			last = next
		}
		r := t.record(n)
		if uint64(r.u32(0)) != names || r[14] != 0 || r[15] != 0 {
			return bad(n, "name at the wrong place")
		}
		if names += uint64(r[12]); names > uint64(len(t.names)) {
			return bad(n, "name too long")
		}
		switch r.kind() {
		case Directory:
			if r.u64(16) != next {
				return bad(n, "entries at the wrong place")
			}
			if err := t.checkEntries(n, r); err != nil {
				return err
			}
			next += uint64(r.u32(8))
		case Regular, Executable:
			if r.u32(8) != 0 || r.u64(16) > 1<<63-1 {
				return bad(n, "impossible size")
			}
		case Symlink:
			size := uint64(r.u32(8))
			if r.u64(16) != names || size == 0 || size > maxTarget || names+size > uint64(len(t.names)) {
				return bad(n, "impossible target")
			}
			for _, c := range t.names[names : names+size] {
				if c == 0 {
					return bad(n, "a target with a zero byte")
				}
			}
			names += size
		default:
			return bad(n, "unknown kind")
		}
	}
	if next != uint64(t.Len()) || names != uint64(len(t.names)) || t.record(0)[12] != 0 || t.Parent(0) != 0 {
		return bad(0, "something is left over")
	}
	return nil
}

// checkEntries looks at the entries of a directory: theirs are the names in order.
func (t *Tree) checkEntries(dir uint32, r record) error {
	first, count := r.u64(16), uint64(r.u32(8))
	if first+count > uint64(t.Len()) {
		return fmt.Errorf("%w: node %d has entries that are not there", ErrTree, dir)
	}
	before := ""
	for n := uint32(first); n < uint32(first+count); n++ {
		e := t.record(n)
		if uint64(e.u32(0))+uint64(e[12]) > uint64(len(t.names)) {
			return fmt.Errorf("%w: node %d: name too long", ErrTree, n)
		}
		name := t.Name(n)
		if e.u32(4) != dir || !validName(name) || name <= before {
			return fmt.Errorf("%w: node %d is not an entry of %d", ErrTree, n, dir)
		}
		before = name
	}
	return nil
}

// record is the bytes of a node.
type record []byte

func (r record) u32(at int) uint32 { return binary.LittleEndian.Uint32(r[at:]) }
func (r record) u64(at int) uint64 { return binary.LittleEndian.Uint64(r[at:]) }
func (r record) kind() Kind        { return Kind(r[13]) }

func (t *Tree) record(n uint32) record { return t.nodes[int(n)*treeRecord : (int(n)+1)*treeRecord] }
