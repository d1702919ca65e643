package fileindex

import (
	"fmt"
	"math"

	"github.com/strata-nix/strata/fusefs"
)

// Bytes of what stands between the variable parts of a NAR: strings with their length, padded to
// multiples of 8. Source: the Nix manual, "Nix Archive (NAR) format".
const (
	narMagic      = 8 + 16           // "nix-archive-1"
	narOpen       = 16 + 16          // "(" "type"
	narClose      = 16               // ")"
	narRegular    = 16 + 16 + 8      // "regular" "contents" and the size
	narExecutable = 8 + 16 + 8       // "executable" ""
	narSymlink    = 16 + 16 + 8      // "symlink" "target" and its length
	narDirectory  = 8 + 16           // "directory"
	narEntry      = 16 + 16 + 16 + 8 // "entry" "(" "name" and its length
	narNode       = 16               // "node"
)

// layout finds where in its NAR the contents of each file of a tree begin, and how many bytes the NAR has.
func layout(t *fusefs.Tree) (offsets []int64, size uint64, err error) {
	l := &layouter{t: t, offsets: make([]int64, t.Len()), at: narMagic}
	l.node(0)
	if l.over {
		return nil, 0, fmt.Errorf("%w: a NAR of more than 2^63 bytes", ErrFormat)
	}
	return l.offsets, l.at, nil
}

type layouter struct {
	t       *fusefs.Tree
	offsets []int64
	at      uint64
	over    bool
}

func (l *layouter) add(n uint64) {
	if l.over = l.over || n > math.MaxInt64-l.at; !l.over {
		l.at += n
	}
}

// padded adds a string or a file.
func (l *layouter) padded(n uint64) { l.add((n + 7) / 8 * 8) }

// node adds a node with all that is in it. Trees are not deeper than NARs may be.
func (l *layouter) node(n uint32) {
	l.add(narOpen)
	switch node := l.t.Node(n); node.Kind {
	case fusefs.Executable:
		l.add(narExecutable)
		fallthrough
	case fusefs.Regular:
		l.add(narRegular)
		l.offsets[n] = int64(l.at)
		l.padded(uint64(node.Size))
	case fusefs.Symlink:
		l.add(narSymlink)
		l.padded(uint64(node.Size))
	case fusefs.Directory:
		l.add(narDirectory)
		first, end := l.t.Entries(n)
		for e := first; e < end && !l.over; e++ {
			l.add(narEntry)
			l.padded(uint64(len(l.t.Name(e))))
			l.add(narNode)
			l.node(e)
			l.add(narClose)
		}
	}
	l.add(narClose)
}
