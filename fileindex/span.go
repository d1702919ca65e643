package fileindex

import (
	"sort"

	"github.com/strata-nix/strata/compress"
)

// begins are where frames begin, in the file and in the NAR, with the end of the last one.
type begins struct{ file, nar []int64 }

func beginsOf(frames []compress.Frame) (b begins) {
	var file, nar int64
	for _, f := range frames {
		b.file, b.nar = append(b.file, file), append(b.nar, nar)
		file, nar = file+int64(f.Size), nar+int64(f.Plain)
	}
	b.file, b.nar = append(b.file, file), append(b.nar, nar)
	return b
}

// at is the number of the frame with a byte of the NAR.
func (b *begins) at(off int64) int {
	return sort.Search(len(b.nar)-1, func(i int) bool { return b.nar[i+1] > off })
}

func (x *Index) begins() *begins {
	x.once.Do(func() { x.starts = beginsOf(x.Frames) })
	return &x.starts
}

// Span is what comes together with some bytes of the NAR, wherever one stops: the frames that they are in,
// or the blocks of a NAR that is not compressed.
func (x *Index) Span(off, size int64) (from, to int64) {
	if len(x.Frames) == 0 {
		from, _ = x.Contents.Block(off)
		_, to = x.Contents.Block(off + size - 1)
		return from, to
	}
	b := x.begins()
	return b.nar[b.at(off)], b.nar[b.at(off+size-1)+1]
}

// InFile is where bytes of the NAR are in the compressed file: the frames that have them, and how many
// bytes of what they decompress to come before.
func (x *Index) InFile(off, size int64) (from, length, skip int64) {
	b := x.begins()
	first, last := b.at(off), b.at(off+size-1)
	return b.file[first], b.file[last+1] - b.file[first], off - b.nar[first]
}
