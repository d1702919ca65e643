package lease

import (
	"bytes"
	"slices"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// HashLen is the bytes of the hash part of a store path.
const HashLen = 20

// Hash is the hash part of a store path.
type Hash [HashLen]byte

// HashOf is the hash part of a path.
func HashOf(p storepath.Path) (h Hash) {
	b, err := nixhash.DecodeNix32(p.HashPart())
	if err != nil || len(b) != HashLen {
		panic("lease: a store path without a hash part: " + p.Base())
	}
	return Hash(b)
}

// String is how the hash stands in a store path.
func (h Hash) String() string { return nixhash.EncodeNix32(h[:]) }

// Hashes are sorted, each once.
type Hashes []Hash

// HashesOf are the hash parts of paths.
func HashesOf(paths []storepath.Path) Hashes {
	hs := make(Hashes, len(paths))
	for i, p := range paths {
		hs[i] = HashOf(p)
	}
	slices.SortFunc(hs, compareHashes)
	return slices.Compact(hs)
}

func compareHashes(a, b Hash) int { return bytes.Compare(a[:], b[:]) }

// union gives those that are among either.
func (hs Hashes) union(others Hashes) Hashes {
	all := slices.Concat(hs, others)
	slices.SortFunc(all, compareHashes)
	return slices.Compact(all)
}

// Has tells whether a hash is among them.
func (hs Hashes) Has(h Hash) bool {
	_, ok := slices.BinarySearchFunc(hs, h, compareHashes)
	return ok
}
