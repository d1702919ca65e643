package fileindex

import "github.com/strata-nix/strata/fusefs"

// Layout finds where in its NAR the contents of each file of a tree begin, by node (0 for what has none), and how
// many bytes the NAR has: both follow from the tree alone.
func Layout(t *fusefs.Tree) (offsets []int64, narSize uint64, err error) { return layout(t) }
