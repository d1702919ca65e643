package fileindex

import (
	"fmt"
	"sync"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Suffix ends the name of an index: <hash part>.sfi, beside the narinfo.
const Suffix = ".sfi"

// Header says what an index is about. All of it is signed.
type Header struct {
	Path    storepath.Path
	NarHash nixhash.Hash
	NarSize uint64
	// URL, Compression, FileHash and FileSize are of the file that has the NAR, as in its narinfo.
	URL         string
	Compression string
	FileHash    nixhash.Hash
	FileSize    uint64
}

// Describes tells whether it is about the object with this info.
func (h *Header) Describes(info *store.PathInfo) bool {
	return h.Path == info.Path && h.NarHash == info.NarHash && h.NarSize == info.NarSize
}

// Index describes the files of an object.
type Index struct {
	Header
	Contents *Contents
	// Frames are the pieces of the compressed file, if it has some that can be decompressed by themselves.
	// They lie one behind the other, from the beginning of the file and of the NAR.
	Frames []compress.Frame

	once   sync.Once
	starts begins
}

// MaxFrame bounds the bytes of a frame, in the file and in the NAR: so much is held in memory for a single
// file of it.
const MaxFrame = 8 << 20

// check finds what an index must not be.
func (x *Index) check() error {
	if x.Contents.NarSize() != x.NarSize {
		return fmt.Errorf("%w: its files make a NAR of %d bytes, and not of %d", ErrFormat, x.Contents.NarSize(), x.NarSize)
	}
	if len(x.Frames) == 0 {
		return nil
	}
	return CheckFrames(x.Frames, x.FileSize, x.NarSize)
}

// CheckFrames makes sure that frames are those of a file and a NAR with so many bytes. Behind them the file
// may have more.
func CheckFrames(frames []compress.Frame, fileSize, narSize uint64) error {
	var file, nar uint64
	for i, f := range frames {
		if f.Size == 0 || f.Plain == 0 || f.Size > MaxFrame || f.Plain > MaxFrame {
			return fmt.Errorf("%w: frame %d has %d bytes for %d", ErrFormat, i, f.Size, f.Plain)
		}
		file, nar = file+uint64(f.Size), nar+uint64(f.Plain)
	}
	if file > fileSize || nar != narSize {
		return fmt.Errorf("%w: %d frames have %d bytes for %d, of files with %d and %d", ErrFormat, len(frames), file, nar, fileSize, narSize)
	}
	return nil
}
