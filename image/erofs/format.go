package erofs

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// Numbers of the format; see the package comment for their source.
const (
	blockBits = 12
	blockSize = 1 << blockBits

	superOffset = 1024
	superSize   = 128
	superMagic  = 0xE0F5E1E2
	rootOffset  = superOffset + superSize

	featureChecksum = 1 // compatible: the superblock has a checksum
	featureMtime    = 2 // compatible: times are of modification

	slotBits     = 5 // an inode's number counts slots of 32 bytes
	slotSize     = 1 << slotBits
	compactSize  = 32
	extendedSize = 64

	layoutPlain  = 0 << 1 // contents in blocks of their own
	layoutInline = 2 << 1 // the last part after the inode
	formExtended = 1

	entrySize = 12 // of a directory, without its name
	maxName   = 255
	maxTarget = 4095
	maxLabel  = 15
)

// Types of directory entries.
const (
	entryFile    = 1
	entryDir     = 2
	entrySymlink = 7
)

// inode is one that is about to be written.
type inode struct {
	mode   uint32 // type and permissions
	links  uint32
	size   int64
	block  uint32 // of the first byte that is in a block of its own
	inline bool   // what is left of whole blocks is beside it
	number uint32 // that a 32-bit stat shows
}

// extended tells whether it does not fit in the compact form.
func (n *inode) extended() bool { return n.size > math.MaxUint32 || n.links > math.MaxUint16 }

func (n *inode) encodedSize() int {
	if n.extended() {
		return extendedSize
	}
	return compactSize
}

// linksAt is where in an encoded inode the number of its names is.
func linksAt(extended bool) int64 {
	if extended {
		return 44
	}
	return 6
}

// encode writes it to b, which is zero. Owner and group are root. An extended one has
// a time of its own.
func (n *inode) encode(b []byte, time uint64) {
	le := binary.LittleEndian
	format := uint16(layoutPlain)
	if n.inline {
		format = layoutInline
	}
	le.PutUint16(b[4:], uint16(n.mode)) //nolint:gosec // 16 bits of st_mode
	le.PutUint32(b[16:], n.block)
	le.PutUint32(b[20:], n.number)
	if !n.extended() {
		le.PutUint16(b[0:], format)
		le.PutUint16(b[6:], uint16(n.links)) //nolint:gosec // see extended
		le.PutUint32(b[8:], uint32(n.size))  //nolint:gosec // see extended
		return
	}
	le.PutUint16(b[0:], format|formExtended)
	le.PutUint64(b[8:], uint64(n.size)) //nolint:gosec // not negative
	le.PutUint64(b[32:], time)
	le.PutUint32(b[44:], n.links)
}

// super is what the superblock says.
type super struct {
	inodes uint64
	time   uint64
	blocks uint32
	uuid   [16]byte
	label  string
}

// encode writes it into block 0, in which all else is already, with the checksum
// over everything from its place to the end.
func (s *super) encode(block []byte) {
	le := binary.LittleEndian
	b := block[superOffset:]
	le.PutUint32(b[0:], superMagic)
	le.PutUint32(b[8:], featureChecksum|featureMtime)
	b[12] = blockBits
	le.PutUint16(b[14:], rootOffset>>slotBits)
	le.PutUint64(b[16:], s.inodes)
	le.PutUint64(b[24:], s.time)
	le.PutUint32(b[36:], s.blocks)
	copy(b[48:64], s.uuid[:])
	copy(b[64:64+maxLabel], s.label)
	// The kernel does not invert its CRCs at the end.
	le.PutUint32(b[4:], ^crc32.Checksum(b[:blockSize-superOffset], crc32.MakeTable(crc32.Castagnoli)))
}
