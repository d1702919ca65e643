package fileindex

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"sort"
	"sync"

	"github.com/strata-nix/strata/fusefs"
)

// ChunkSize is how many bytes of a file have a digest of their own; the last ones of a file may be
// fewer. It belongs to the format.
const ChunkSize = 128 << 10

// Digest is a SHA-256.
type Digest [sha256.Size]byte

// ErrFormat is the cause of every error about something that cannot be an index.
var ErrFormat = errors.New("malformed file index")

// Contents are the tree of a NAR with the digests of its files. They do not change, and any number of goroutines may
// use them.
type Contents struct {
	tree    *fusefs.Tree
	digests []byte   // one for each chunk, in the order of the nodes
	first   []uint32 // by node: the number of its first chunk; one more at the end
	offsets []int64  // by node: where the contents begin in the NAR; 0 of what has none
	narSize uint64

	cutOnce sync.Once
	cuts    []int64 // where the NAR is cut into blocks

	several sync.Map // by node: the digest of a file with several chunks, which can be the sum of a lot

	orderOnce sync.Once
	order     []uint32 // nodes with contents, in the order of the NAR
}

// newContents puts them together, if they fit.
func newContents(t *fusefs.Tree, digests []byte) (*Contents, error) {
	c := &Contents{tree: t, digests: digests, first: make([]uint32, t.Len()+1)}
	var err error
	if c.offsets, c.narSize, err = layout(t); err != nil {
		return nil, err
	}
	chunks := uint64(0)
	for n := range t.Len() {
		c.first[n] = uint32(chunks)
		if k := t.Kind(n); k == fusefs.Regular || k == fusefs.Executable {
			chunks += chunksOf(t.Node(n).Size)
		}
		if chunks > math.MaxUint32 {
			return nil, fmt.Errorf("%w: too many chunks", ErrFormat)
		}
	}
	c.first[t.Len()] = uint32(chunks)
	if uint64(len(digests)) != chunks*sha256.Size {
		return nil, fmt.Errorf("%w: %d bytes of digests for %d chunks", ErrFormat, len(digests), chunks)
	}
	return c, nil
}

func chunksOf(size int64) uint64 { return (uint64(size) + ChunkSize - 1) / ChunkSize }

// Tree is that of the NAR.
func (c *Contents) Tree() *fusefs.Tree { return c.tree }

// NarSize is how many bytes the NAR has.
func (c *Contents) NarSize() uint64 { return c.narSize }

// Len is the number of chunks.
func (c *Contents) Len() int { return len(c.digests) / sha256.Size }

// Bytes is about what they take in memory.
func (c *Contents) Bytes() int {
	return len(c.tree.Encoded()) + len(c.digests) + 4*len(c.first) + 8*len(c.offsets)
}

// Chunks are the numbers of a file's chunks: from first up to before end. An empty file has none,
// nor has what is no file.
func (c *Contents) Chunks(node uint32) (first, end int) {
	return int(c.first[node]), int(c.first[node+1])
}

// A Chunk is a piece of a file.
type Chunk struct {
	Node   uint32
	Offset int64 // in the file
	Size   int64 // at least 1
	Nar    int64 // where it begins in the NAR
	Digest Digest
}

// Chunk describes a chunk.
func (c *Contents) Chunk(i int) Chunk {
	return c.chunkOf(uint32(sort.Search(int(c.tree.Len()), func(n int) bool { return int(c.first[n+1]) > i })), i)
}

// chunkOf is Chunk for who knows which file it is of.
func (c *Contents) chunkOf(node uint32, i int) Chunk {
	off := int64(i-int(c.first[node])) * ChunkSize
	return Chunk{
		Node: node, Offset: off, Size: min(ChunkSize, c.tree.Node(node).Size-off),
		Nar: c.offsets[node] + off, Digest: c.digest(i),
	}
}

func (c *Contents) digest(i int) Digest {
	return Digest(c.digests[i*sha256.Size : (i+1)*sha256.Size])
}

// FileDigest stands for the contents of a file: with the file's size it is the same only for the same
// contents. It is the chunk's digest if there is one chunk, and otherwise the SHA-256 of the digests of all. ok is
// false for what has no contents.
func (c *Contents) FileDigest(node uint32) (d Digest, ok bool) {
	first, end := c.Chunks(node)
	switch end - first {
	case 0:
		return d, false
	case 1:
		return c.digest(first), true
	}
	if known, ok := c.several.Load(node); ok {
		return known.(Digest), true
	}
	d = sha256.Sum256(c.digests[first*sha256.Size : end*sha256.Size])
	c.several.Store(node, d)
	return d, true
}

// Offset is where a file's contents begin in the NAR; 0 for what is no file.
func (c *Contents) Offset(node uint32) int64 { return c.offsets[node] }
