package nixdb

import (
	"sync/atomic"
	"unsafe"

	lib "modernc.org/sqlite/lib"
)

// walIndex is the index of a write-ahead log in the memory that all processes
// share which have the database open. It is only looked at, and without a lock: what
// was read counts if the header was the same before and after.
//
// Why that is enough: a commit changes the header, and so does starting the log
// over, before any frame is written again. Pages that the log has are taken from
// the log; others no checkpoint writes to.
//
// Source of the format: "WAL-mode File Format", https://sqlite.org/walformat.html.
type walIndex struct{ wal *lib.TWal }

// walHeader is what must not change: the header of the index, in words.
type walHeader [12]uint32

// It is as long as SQLite has it, or this does not compile.
var _ [unsafe.Sizeof(walHeader{})]byte = [unsafe.Sizeof(lib.TWalIndexHdr{})]byte{}

const (
	walVersion   = 3007000
	walBlock     = 4096 // frames that a block tells of
	walFirst     = walBlock - walIndexFront/4
	walHashSlots = 8192
	// walIndexFront is how many bytes of the first block are header, twice, and
	// what checkpoints need.
	walIndexFront = 136
)

// header reads the header, and whether it is one that can be relied on.
func (x walIndex) header() (h walHeader, ok bool) {
	w := x.wal
	if w.FexclusiveMode != 0 || w.FbShmUnreliable != 0 {
		return h, false
	}
	first := x.block(0)
	if first == nil {
		return h, false
	}
	// Writers write the second copy first.
	a, b := (*walHeader)(first), (*walHeader)(unsafe.Add(first, unsafe.Sizeof(h)))
	for i := range h {
		h[i] = atomic.LoadUint32(&a[i])
	}
	for i := range h {
		if atomic.LoadUint32(&b[i]) != h[i] {
			return h, false
		}
	}
	return h, true
}

// sound tells whether the header says of itself that it is one.
func (h *walHeader) sound() bool {
	hdr := h.fields()
	var a, b uint32
	for i := 0; i < 10; i += 2 {
		a += h[i] + b
		b += h[i+1] + a
	}
	return hdr.FisInit != 0 && hdr.FiVersion == walVersion && hdr.FaCksum == [2]uint32{a, b}
}

func (h *walHeader) fields() *lib.TWalIndexHdr { return (*lib.TWalIndexHdr)(unsafe.Pointer(h)) }

// block gives a block of the index, nil if SQLite has not mapped it yet.
func (x walIndex) block(i int) unsafe.Pointer {
	if i >= int(x.wal.FnWiData) || x.wal.FapWiData == 0 {
		return nil
	}
	blocks := *(*unsafe.Pointer)(unsafe.Pointer(&x.wal.FapWiData))
	return *(*unsafe.Pointer)(unsafe.Add(blocks, uintptr(i)*unsafe.Sizeof(uintptr(0))))
}

// blockOf is the block that tells of a frame, and how many frames come before it.
func blockOf(frame uint32) (block int, before uint32) {
	if frame <= walFirst {
		return 0, 0
	}
	block = int((frame-walFirst-1)/walBlock) + 1
	return block, walFirst + uint32(block-1)*walBlock
}

// pageOf is the page that a frame holds; ok is false if that cannot be told.
func (x walIndex) pageOf(frame uint32) (page uint32, ok bool) {
	i, before := blockOf(frame)
	b := x.block(i)
	if b == nil {
		return 0, false
	}
	return atomic.LoadUint32(pageSlot(b, i, frame-before-1)), true
}

func pageSlot(block unsafe.Pointer, number int, i uint32) *uint32 {
	if number == 0 {
		block = unsafe.Add(block, walIndexFront)
	}
	return (*uint32)(unsafe.Add(block, 4*uintptr(i)))
}

// find gives the last frame up to last that holds a page, 0 if there is none; ok is
// false if that cannot be told.
func (x walIndex) find(page, last uint32) (frame uint32, ok bool) {
	if last == 0 {
		return 0, true
	}
	for i, before := blockOf(last); ; {
		b := x.block(i)
		if b == nil {
			return 0, false
		}
		if f := findIn(b, i, page, last-min(before, last)); f != 0 {
			return before + f, true
		}
		if i == 0 {
			return 0, true
		}
		i, before = blockOf(before)
	}
}

// findIn looks a page up in the hash table of a block, among its first most frames.
func findIn(block unsafe.Pointer, number int, page, most uint32) (found uint32) {
	slots := (*[walHashSlots]uint16)(unsafe.Add(block, 4*walBlock))
	frames := uint32(walBlock)
	if number == 0 {
		frames = walFirst
	}
	k := page * 383
	for range walHashSlots { // there are always empty ones, if nothing is wrong
		i := uint32(slots[k%walHashSlots])
		k++
		if i == 0 || i > frames {
			break
		}
		if i <= most && i > found && atomic.LoadUint32(pageSlot(block, number, i-1)) == page {
			found = i
		}
	}
	return found
}
