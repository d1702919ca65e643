package lazy

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
)

// treeOfListing makes a tree of a listing.
func treeOfListing(l *nar.Listing) (*fusefs.Tree, error) {
	if l == nil || l.Root == nil {
		return nil, errors.New("a listing without a root")
	}
	return fusefs.BuildTree(l.Root, describeNode, nodeEntries)
}

func describeNode(n *nar.Node) fusefs.Node {
	switch {
	case n.Type == nar.TypeDirectory:
		return fusefs.Node{Kind: fusefs.Directory}
	case n.Type == nar.TypeSymlink:
		return fusefs.Node{Kind: fusefs.Symlink, Size: int64(len(n.Target)), Target: n.Target}
	case n.Executable:
		return fusefs.Node{Kind: fusefs.Executable, Size: n.Size}
	}
	return fusefs.Node{Kind: fusefs.Regular, Size: n.Size}
}

func nodeEntries(n *nar.Node) iter.Seq2[string, *nar.Node] {
	return func(yield func(string, *nar.Node) bool) {
		for _, e := range n.Entries {
			if !yield(e.Name, e.Node) {
				return
			}
		}
	}
}

// narSizeOf is how many bytes the NAR of a tree has, which follows from the tree alone.
// Source: the Nix manual, "Nix Archive (NAR) format".
func narSizeOf(t *fusefs.Tree) uint64 {
	str := func(n uint64) uint64 { return 8 + (n+7)/8*8 }
	word := func(s string) uint64 { return str(uint64(len(s))) }
	sum := word("nix-archive-1")
	for n := range t.Len() {
		node := t.Node(n)
		sum += word("(") + word("type") + word(")")
		switch node.Kind {
		case fusefs.Regular:
			sum += word("regular") + word("contents") + str(uint64(node.Size))
		case fusefs.Executable:
			sum += word("regular") + word("executable") + word("") + word("contents") + str(uint64(node.Size))
		case fusefs.Symlink:
			sum += word("symlink") + word("target") + str(uint64(node.Size))
		case fusefs.Directory:
			sum += word("directory")
		}
		if n > 0 {
			sum += word("entry") + word("(") + word("name") + word(t.Name(n)) + word("node") + word(")")
		}
	}
	return sum
}

// listingOf finds the tree of an object in a listing; nil if there is none that could be
// right. One that was used before for this object comes first: the kernel knows it.
func (s *Store) listingOf(ctx context.Context, info *store.PathInfo) *fusefs.Tree {
	if s.o.NoListings {
		return nil
	}
	p := info.Path
	if t, err := s.o.Cache.keptListing(p); err == nil && narSizeOf(t) == info.NarSize {
		return t
	}
	for _, from := range s.origins(ctx) {
		lister, ok := store.As[Lister](from.Store)
		if !ok || from.rests() {
			continue
		}
		began := time.Now()
		l, err := question(ctx, s, from, largeAnswer, func(ctx context.Context) (*nar.Listing, error) { return lister.NarListing(ctx, p) })
		if err != nil {
			if ctx.Err() == nil {
				from.delays(began)
			}
			continue // the object itself says more, and why it cannot be had
		}
		t, err := treeOfListing(l)
		if err != nil || narSizeOf(t) != info.NarSize {
			s.count.lied.Add(1)
			s.o.Log.Warn(fmt.Sprintf("the listing of '%s' at '%s' is not that of the object, and is not used", p, from.Store.URI()))
			continue
		}
		s.o.Cache.keepListing(p, t)
		return t
	}
	return nil
}
