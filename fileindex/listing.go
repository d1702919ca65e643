package fileindex

import (
	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/nar"
)

// Listing is the tree as a listing of the NAR.
func (c *Contents) Listing() *nar.Listing { return &nar.Listing{Root: c.listed(0)} }

func (c *Contents) listed(n uint32) *nar.Node {
	switch node := c.tree.Node(n); node.Kind {
	case fusefs.Directory:
		first, end := c.tree.Entries(n)
		out := &nar.Node{Type: nar.TypeDirectory}
		if first < end {
			out.Entries = make([]nar.DirEntry, 0, end-first)
		}
		for e := first; e < end; e++ {
			out.Entries = append(out.Entries, nar.DirEntry{Name: c.tree.Name(e), Node: c.listed(e)})
		}
		return out
	case fusefs.Symlink:
		return &nar.Node{Type: nar.TypeSymlink, Target: node.Target}
	default:
		return &nar.Node{Type: nar.TypeRegular, Executable: node.Kind == fusefs.Executable, Size: node.Size, Offset: c.offsets[n]}
	}
}
