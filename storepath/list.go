package storepath

import (
	"iter"
	"unsafe"
)

// List is a long list of paths in little more memory than their texts take: half
// of what a slice of paths does. The zero value is empty. Reading it is for any
// number of goroutines once nobody adds.
type List struct {
	chunks [][]byte // each path as its length, one byte, and its base
	n      int
}

// listChunk is how much memory a list takes at a time, in bytes.
const listChunk = 256 << 10

// Add appends a path, which must not be zero.
func (l *List) Add(p Path) {
	last := len(l.chunks) - 1
	if last < 0 || len(l.chunks[last])+1+len(p.base) > cap(l.chunks[last]) {
		l.chunks = append(l.chunks, make([]byte, 0, listChunk))
		last++
	}
	l.chunks[last] = append(append(l.chunks[last], byte(len(p.base))), p.base...)
	l.n++
}

// Len is how many paths there are.
func (l *List) Len() int { return l.n }

// All gives the paths in the order in which they were added. A path keeps the memory
// of many others alive: clone what stays.
func (l *List) All() iter.Seq[Path] {
	return func(yield func(Path) bool) {
		for _, c := range l.chunks {
			for len(c) > 0 {
				base := c[1 : 1+c[0]]
				c = c[1+len(base):]
				// Nobody writes to it any more.
				if !yield(Path{base: unsafe.String(&base[0], len(base))}) {
					return
				}
			}
		}
	}
}
