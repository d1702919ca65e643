package lazy

import (
	"errors"
	"fmt"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/nixhash"
)

// Index describes an object so that each of its files can be had and checked without
// the others. Who made it answers for it that the tree is that of the NAR.
type Index struct {
	// Tree of the object, with the targets of its symlinks.
	Tree *fusefs.Tree
	// Files has an entry for each node of the tree, in its order; those of directories
	// and symlinks are zero.
	Files []IndexFile
}

// IndexFile is where the contents of a file are and what they must be.
type IndexFile struct {
	Offset int64        // in the NAR
	Digest nixhash.Hash // of the contents; the size is in the tree
}

// ErrIndex is the cause of every error about an index that cannot be one.
var ErrIndex = errors.New("malformed index")

// Check finds what an index must not be: offsets are within a NAR of narSize bytes, rise with the
// files' order in the NAR, and every file has a digest.
func (x *Index) Check(narSize uint64) error {
	if x.Tree == nil || len(x.Files) != int(x.Tree.Len()) {
		return fmt.Errorf("%w: it describes %d files of another tree", ErrIndex, len(x.Files))
	}
	for n := range x.Tree.Len() {
		node, f := x.Tree.Node(n), x.Files[n]
		if node.Kind != fusefs.Regular && node.Kind != fusefs.Executable {
			continue
		}
		if f.Digest.IsZero() || f.Offset <= 0 || uint64(f.Offset) > narSize || uint64(node.Size) > narSize-uint64(f.Offset) {
			return fmt.Errorf("%w: file '%s' has no digest or lies outside of the NAR", ErrIndex, x.Tree.Path(n))
		}
	}
	return nil
}
