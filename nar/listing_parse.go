package nar

import (
	"cmp"
	"slices"
	"strconv"
)

// A listingParser is a JSON parser for listings. encoding/json would not do: it
// replaces what is not UTF-8, lets later duplicates of a key win and would
// decode each object twice to learn its type.
type listingParser struct {
	in   []byte
	pos  int
	path []string // entries on the way to the present node
}

func (p *listingParser) malformed(reason string) error {
	e := &FormatError{Offset: int64(p.pos), Reason: reason, listing: true}
	for i, name := range p.path {
		if i > 0 {
			e.Path += "/"
		}
		e.Path += name
	}
	return e
}

var nodeKeys = []string{"entries", "executable", "narOffset", "size", "target", "type"}

// node takes an object of the tree.
func (p *listingParser) node(depth int) (*Node, error) {
	if depth == MaxDepth {
		return nil, p.malformed("object " + ErrTooDeep.Error())
	}
	var typ string
	var seen uint // bits of nodeKeys
	n := &Node{Size: -1}
	err := p.members(func(key string) (err error) {
		if i := slices.Index(nodeKeys, key); i >= 0 {
			if seen&(1<<i) != 0 {
				return p.malformed("duplicate key " + strconv.Quote(key))
			}
			seen |= 1 << i
		}
		switch key {
		case "type":
			typ, err = p.value()
		case "target":
			n.Target, err = p.value()
		case "size":
			n.Size, err = p.integer()
		case "narOffset":
			n.Offset, err = p.integer()
		case "executable":
			n.Executable, err = p.boolean()
		case "entries":
			err = p.entries(n, depth)
		default:
			err = p.skip(depth)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return n, p.check(n, typ, seen&1 != 0)
}

// check decides from a node's type whether it is complete, and drops what does
// not belong to it.
func (p *listingParser) check(n *Node, typ string, hasEntries bool) error {
	switch typ {
	case "regular":
		n.Type = TypeRegular
		if n.Size < 0 {
			return p.malformed("regular file without size")
		}
		n.Target, n.Entries = "", nil
	case "directory":
		if !hasEntries {
			return p.malformed("directory without entries")
		}
		*n = Node{Type: TypeDirectory, Entries: n.Entries}
	case "symlink":
		if reason := checkTarget(n.Target); reason != "" {
			return p.malformed(reason)
		}
		*n = Node{Type: TypeSymlink, Target: n.Target}
	default:
		return p.malformed("unknown file type " + strconv.Quote(typ))
	}
	return nil
}

func (p *listingParser) entries(n *Node, depth int) error {
	err := p.members(func(name string) error {
		if reason := checkName(name); reason != "" {
			return p.malformed(reason)
		}
		p.path = append(p.path, name)
		child, err := p.node(depth + 1)
		if err != nil {
			return err
		}
		p.path = p.path[:len(p.path)-1]
		n.Entries = append(n.Entries, DirEntry{name, child})
		return nil
	})
	if err != nil {
		return err
	}
	byName := func(a, b DirEntry) int { return cmp.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(n.Entries, byName) {
		slices.SortFunc(n.Entries, byName)
	}
	for i := range n.Entries[min(1, len(n.Entries)):] {
		if n.Entries[i].Name == n.Entries[i+1].Name {
			return p.malformed("directory has two entries named " + strconv.Quote(n.Entries[i].Name))
		}
	}
	return nil
}
