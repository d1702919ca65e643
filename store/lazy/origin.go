package lazy

import (
	"context"
	"io"

	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Origin is a store that objects come from, such as a binary cache. Its Store must
// be able to give NARs ([store.OpenNar]).
type Origin struct {
	Store store.Store
	// Trusted tells that its path infos need no signatures.
	Trusted bool
	// Priority decides which of several is asked first: lower comes first. nil: what the
	// store advertises itself.
	Priority *int
}

// Lister is an origin that knows the tree of an object without giving its contents:
// a binary cache with ".ls" files. What it says is not signed.
type Lister interface {
	// NarListing gives the listing of a valid path, fs.ErrNotExist if there is none.
	NarListing(ctx context.Context, p storepath.Path) (*nar.Listing, error)
}

// RangeOpener is an origin that gives parts of NARs: of uncompressed ones, or
// of such as are compressed in pieces.
type RangeOpener interface {
	// OpenNarRange begins to give size bytes of the NAR that an index describes, from off on, of whatever
	// origin the index is. The caller closes the reader. Nothing is compared: whoever reads does that.
	// An error that is a [store.ErrUnsupported] says that this NAR can only be had whole here.
	OpenNarRange(ctx context.Context, x *fileindex.Index, off, size int64) (io.ReadCloser, error)
}

// Indexer is an origin that has indexes of objects.
type Indexer interface {
	// NarIndex gives the index of a valid path; fs.ErrNotExist if there is none. Nobody has checked
	// whether a key that is trusted has signed it, nor whether it is about the promised object.
	NarIndex(ctx context.Context, p storepath.Path) (*fileindex.Signed, error)
}
