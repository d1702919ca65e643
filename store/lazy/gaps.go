package lazy

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fileindex"
)

// farLook is how many chunks are looked at to find some that are worth fetching.
const farLook = 1 << 12

// filled is a part of the NAR in which nothing is worth fetching for who reads small files, or the large
// file that is node: to look there once is enough.
type filled struct {
	node     uint32 // 0 for small files
	from, to int64
}

// with is it with another part; of two that do not touch it is the other one.
func (f filled) with(other filled) filled {
	if f.node == other.node && f.from < f.to && f.from <= other.to && other.from <= f.to {
		return filled{f.node, min(f.from, other.from), max(f.to, other.to)}
	}
	return other
}

// fill notes where nothing is worth fetching, and gives all that is known of that place.
func (pt *partial) fill(several bool, f filled) filled {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	was := &pt.guess.filled[0]
	if several {
		was = &pt.guess.filled[1]
	}
	*was = was.with(f)
	return *was
}

// filledAt is what is known around a chunk that is here.
func (pt *partial) filledAt(k fileindex.Chunk, several bool) filled {
	f := filled{0, k.Nar, k.Nar + k.Size}
	if several {
		f.node = k.Node
	}
	return pt.fill(several, f)
}

// gapBehind finds the first chunks behind one that are missing and follow each other, up to so many bytes.
func (pt *partial) gapBehind(i int, room int64) (from, to int64) {
	c := pt.x.Contents
	at := c.Chunk(i)
	several, looked := pt.several(at), 0
	known := pt.filledAt(at, several)
	defer func() { pt.fill(several, known) }()
	for n, k := range c.Within(known.to, int64(c.NarSize())) {
		missing, suits := pt.wanting(n, k, at.Node, several)
		looked++
		switch {
		case missing && from == to:
			from, to = k.Nar, k.Nar+k.Size
		case missing && k.Nar+k.Size-from <= room:
			to = k.Nar + k.Size
		case from < to:
			return from, to
		}
		if from == to {
			known.to = k.Nar + k.Size
		} else {
			known.to = from
		}
		if several && !suits || looked > farLook {
			return from, to
		}
	}
	if from == to {
		known.to = int64(c.NarSize())
	}
	return from, to
}

// gapBefore finds the last ones before it, no further away than eight times as much.
func (pt *partial) gapBefore(i int, room int64) (from, to int64) {
	c := pt.x.Contents
	at := c.Chunk(i)
	several, looked := pt.several(at), 0
	known := pt.filledAt(at, several)
	defer func() { pt.fill(several, known) }()
	for n, k := range c.Before(known.from) {
		if k.Nar < at.Nar-8*room {
			return from, to
		}
		missing, suits := pt.wanting(n, k, at.Node, several)
		looked++
		switch {
		case missing && from == to:
			from, to = k.Nar, k.Nar+k.Size
		case missing && to-k.Nar <= room:
			from = k.Nar
		case from < to:
			return from, to
		}
		if from == to {
			known.from = k.Nar
		} else {
			known.from = to
		}
		if several && !suits || looked > farLook {
			return from, to
		}
	}
	if from == to {
		known.from = 0
	}
	return from, to
}

// wanting is missing for who does not hold pt.mu, and looks on disk besides.
func (pt *partial) wanting(n int, k fileindex.Chunk, node uint32, several bool) (missing, suits bool) {
	pt.mu.Lock()
	missing, suits = pt.missing(n, k, node, several)
	pt.mu.Unlock()
	return missing && !pt.seemsHere(k), suits
}

// seemsHere tells whether something is on disk where a chunk should be, which another process may have brought there. It
// is not compared: whoever reads it does that.
func (pt *partial) seemsHere(k fileindex.Chunk) bool {
	name := pt.o.s.o.Cache.fileName(pt.x.Contents, k.Node)
	if _, err := os.Lstat(name); err == nil {
		return true
	}
	if !pt.several(k) {
		return false
	}
	fd, err := openFile(name + partSuffix)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	at, err := unix.Seek(fd, k.Offset, unix.SEEK_DATA)
	return err == nil && at < k.Offset+k.Size
}
