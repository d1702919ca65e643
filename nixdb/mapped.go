package nixdb

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Memory that is mapped for one thing: what is large and has no pointers need not make the garbage collector
// leave as much again free. Without memory the process ends, as it would otherwise.

// mapped gives n values that are zero, of a type without pointers.
func mapped[T any](n int) []T {
	var zero T
	b, err := unix.Mmap(-1, 0, n*int(unsafe.Sizeof(zero)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		panic(err)
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), n)
}

// unmap gives back what mapped gave, in full length.
func unmap[T any](list []T) {
	if len(list) > 0 {
		_ = unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(&list[0])), len(list)*int(unsafe.Sizeof(list[0])))) // it was mapped
	}
}

// mappedInts is a list of numbers in such memory, half of which at most has not been touched.
type mappedInts struct {
	all []uint32
	n   int
}

// leastInts is how many there is room for at first.
const leastInts = 1 << 14

func (l *mappedInts) add(v uint32) {
	if l.n == len(l.all) {
		more := mapped[uint32](max(leastInts, 2*l.n))
		copy(more, l.all)
		unmap(l.all)
		l.all = more
	}
	l.all[l.n] = v
	l.n++
}

// list is what was added, good until more is.
func (l *mappedInts) list() []uint32 { return l.all[:l.n] }

// free forgets everything.
func (l *mappedInts) free() {
	unmap(l.all)
	*l = mappedInts{}
}
