package fileindex

// BlockSize is how many bytes of small files lie together in a block.
const BlockSize = 64 << 10

// A cutter says where a NAR is cut into blocks, each of which is compressed, or fetched, by itself. It is told
// of the files in the order of the NAR. Small files that follow each other share a block; larger ones have
// one for each of their chunks. No chunk lies in two.
type cutter struct {
	start int64 // of the block
	cut   func(off int64)
}

// file tells of a file with its contents at off.
func (c *cutter) file(off, size int64) {
	switch {
	case size == 0:
	case size > BlockSize:
		for at := off; at < off+size; at += ChunkSize {
			c.at(at)
		}
		c.at(off + size)
	case off+size-c.start > BlockSize:
		c.at(off)
	}
}

func (c *cutter) at(off int64) {
	if off > c.start {
		c.start = off
		c.cut(off)
	}
}
