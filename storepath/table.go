package storepath

import (
	"errors"
	"hash/maphash"
	"slices"
	"unsafe"
)

// ErrTableFull means that a Table has 4 GiB of text, some eighty million paths.
var ErrTableFull = errors.New("too many store paths")

// Table is a list of very many store paths in little memory, some 70 bytes for each
// with its text, and no pointers for the garbage collector to follow. It is filled,
// then frozen, and does not change after that.
type Table struct {
	chunks []string // the texts, one after the other
	filled []byte   // the chunk that comes next
	starts []uint32 // chunk number and place in it of each text
	sizes  []uint8  // length of each text
	slots  []int32  // hash table: number of a path plus one, 0 for nobody
	seed   maphash.Seed
}

// A text lies in one chunk.
const (
	chunkBits = 20
	chunkSize = 1 << chunkBits
	maxChunks = 1 << (32 - chunkBits)
)

// Grow makes room for n more paths, but for their texts.
func (t *Table) Grow(n int) {
	t.starts, t.sizes = slices.Grow(t.starts, n), slices.Grow(t.sizes, n)
}

// Append adds the path with a base, "<hash part>-<name>", to a table that is not frozen.
func (t *Table) Append(base []byte) error {
	if len(base) > HashPartLen+1+MaxNameLen {
		return checkBase(string(base))
	}
	if len(t.filled)+len(base) > chunkSize {
		t.endChunk()
	}
	if len(t.chunks) == maxChunks {
		return ErrTableFull
	}
	if t.filled == nil {
		t.filled = make([]byte, 0, chunkSize)
	}
	start := len(t.filled)
	t.filled = append(t.filled, base...)
	if err := checkBase(unsafe.String(unsafe.SliceData(t.filled[start:]), len(base))); err != nil {
		t.filled = t.filled[:start]
		return err
	}
	t.starts = append(t.starts, uint32(len(t.chunks)<<chunkBits|start)) //nolint:gosec // fits, see maxChunks
	t.sizes = append(t.sizes, uint8(len(base)))                         //nolint:gosec // a name has a maximum
	return nil
}

// endChunk gives the chunk out of hand: nobody writes to it any more.
func (t *Table) endChunk() {
	t.chunks = append(t.chunks, unsafe.String(unsafe.SliceData(t.filled), len(t.filled)))
	t.filled = nil
}

// Freeze ends the filling. Of paths that were appended twice, Find gives the first.
func (t *Table) Freeze() {
	if len(t.filled) > 0 {
		t.filled = slices.Clip(slices.Clone(t.filled)) // most of it may be empty
		t.endChunk()
	}
	size := 8
	for size < 2*len(t.starts) {
		size *= 2
	}
	t.slots, t.seed = make([]int32, size), maphash.MakeSeed()
	for i := range t.starts {
		if s := slotOf(t, t.text(i), maphash.String(t.seed, t.text(i))); t.slots[s] == 0 {
			t.slots[s] = int32(i) + 1 //nolint:gosec // no more than 2^31, see maxChunks
		}
	}
}

// slotOf is where a text with a hash is, or where it would be put.
func slotOf[T string | []byte](t *Table, text T, hash uint64) int {
	return slotFrom(t, text, int(hash)&(len(t.slots)-1)) //nolint:gosec // any bits do
}

// slotFrom is slotOf from a slot on.
func slotFrom[T string | []byte](t *Table, text T, s int) int {
	mask := len(t.slots) - 1
	for t.slots[s] != 0 && t.text(int(t.slots[s])-1) != string(text) {
		s = (s + 1) & mask
	}
	return s
}

func (t *Table) text(i int) string {
	start := t.starts[i] & (chunkSize - 1)
	return t.chunks[t.starts[i]>>chunkBits][start : start+uint32(t.sizes[i])]
}

// Len is the number of paths.
func (t *Table) Len() int { return len(t.starts) }

// At gives a path by its number. It shares the memory of the table, which stays as
// long as the path is held.
func (t *Table) At(i int) Path { return Path{base: t.text(i)} }

// Find gives the number of a path, -1 if it is not there.
func (t *Table) Find(p Path) int {
	if len(t.slots) == 0 {
		return -1
	}
	return int(t.slots[slotOf(t, p.base, maphash.String(t.seed, p.base))]) - 1
}

// FindBase gives the number of the path with a base, -1 if it is not there. The base
// need not be one.
func (t *Table) FindBase(base []byte) int {
	if len(t.slots) == 0 {
		return -1
	}
	return int(t.slots[slotOf(t, base, maphash.Bytes(t.seed, base))]) - 1
}

// findAtOnce is how many texts are looked for side by side.
const findAtOnce = 64

// FindBases is FindBase for many at once, which takes a fraction of the time: memory that is far
// away is waited for once for several. It writes to numbers, which is as long as bases.
func (t *Table) FindBases(bases [][]byte, numbers []int32) {
	for len(bases) > 0 {
		n := min(findAtOnce, len(bases))
		t.findSome(bases[:n], numbers[:n])
		bases, numbers = bases[n:], numbers[n:]
	}
}

// findSome does each step for all of them before the next one.
func (t *Table) findSome(bases [][]byte, numbers []int32) {
	if len(t.slots) == 0 {
		for i := range numbers {
			numbers[i] = -1
		}
		return
	}
	var slots [findAtOnce]int
	var texts [findAtOnce]string
	var alike [findAtOnce]bool
	mask := len(t.slots) - 1
	for i, b := range bases {
		slots[i] = int(maphash.Bytes(t.seed, b)) & mask //nolint:gosec // any bits do
	}
	for i := range bases {
		numbers[i] = t.slots[slots[i]] - 1
	}
	for i, n := range numbers {
		if n >= 0 {
			texts[i] = t.text(int(n))
		}
	}
	for i, b := range bases {
		alike[i] = len(texts[i]) > 0 && len(texts[i]) == len(b) && texts[i][0] == b[0]
	}
	for i, b := range bases {
		if n := numbers[i]; n >= 0 && (!alike[i] || texts[i] != string(b)) {
			numbers[i] = t.slots[slotFrom(t, b, slots[i])] - 1
		}
	}
}
