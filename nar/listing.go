package nar

import (
	"cmp"
	"io"
	"slices"
	"strings"
)

// A Listing is what an archive holds, without the contents of files: a tree of
// nodes. Binary caches publish it beside the archive as <hash>.ls, in JSON, so
// that one can look into an archive, and fetch a single file of an uncompressed
// one, without downloading it. See MarshalJSON for the format.
type Listing struct {
	Root *Node
}

// A Node is an object in a Listing.
type Node struct {
	Type Type

	// Executable and Size, in bytes, belong to regular files, and so does
	// Offset: where the contents begin in the archive, 0 if unknown.
	Executable bool
	Size       int64
	Offset     int64

	// Entries belong to directories and are sorted by name.
	Entries []DirEntry

	// Target belongs to symlinks.
	Target string
}

// A DirEntry is a named node in a directory.
type DirEntry struct {
	Name string
	Node *Node
}

// List reads one archive and lists it. It takes exactly the archive's bytes
// from r (see the package comment) and fails as Reader.Next does.
func List(r io.Reader) (*Listing, error) {
	rd := NewReader(r)
	var open [MaxDepth]*Node
	var l Listing
	for {
		err := rd.next()
		if err == io.EOF {
			return &l, nil
		} else if err != nil {
			return nil, err
		}
		e := &rd.cur
		n := &Node{Type: e.typ, Executable: e.executable, Size: e.size, Offset: e.offset, Target: string(e.target)}
		if e.depth == 0 {
			l.Root = n
		} else {
			dir := open[e.depth-1]
			dir.Entries = append(dir.Entries, DirEntry{string(rd.names[e.depth].bytes()), n})
		}
		open[e.depth] = n
	}
}

// Lookup finds the node at a path: names joined by slashes, where empty ones
// and "." mean nothing, so that "", "." and "/" are the root. It is nil if
// there is none. Symlinks are not followed, and ".." is a name that never
// exists.
func (l *Listing) Lookup(path string) *Node {
	n := l.Root
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." {
			continue
		}
		if n = n.Entry(name); n == nil {
			return nil
		}
	}
	return n
}

// Entry finds a directory's entry. It is nil if there is none, also if n is no
// directory.
func (n *Node) Entry(name string) *Node {
	i, ok := slices.BinarySearchFunc(n.Entries, name, func(e DirEntry, name string) int {
		return cmp.Compare(e.Name, name)
	})
	if !ok {
		return nil
	}
	return n.Entries[i].Node
}
