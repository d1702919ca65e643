package storepath

import (
	"errors"
	"hash/maphash"
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

// Append adds a path to a table that is not frozen.
func (t *Table) Append(p Path) error {
	if len(t.filled)+len(p.base) > chunkSize {
		t.endChunk()
	}
	if len(t.chunks) == maxChunks {
		return ErrTableFull
	}
	if t.filled == nil {
		t.filled = make([]byte, 0, chunkSize)
	}
	t.starts = append(t.starts, uint32(len(t.chunks)<<chunkBits|len(t.filled))) //nolint:gosec // fits, see maxChunks
	t.sizes = append(t.sizes, uint8(len(p.base)))                               //nolint:gosec // a name has a maximum
	t.filled = append(t.filled, p.base...)
	return nil
}

func (t *Table) endChunk() {
	t.chunks = append(t.chunks, string(t.filled))
	t.filled = t.filled[:0]
}

// Freeze ends the filling. Of paths that were appended twice, Find gives the first.
func (t *Table) Freeze() {
	if len(t.filled) > 0 {
		t.endChunk()
	}
	t.filled = nil
	size := 8
	for size < 2*len(t.starts) {
		size *= 2
	}
	t.slots, t.seed = make([]int32, size), maphash.MakeSeed()
	for i := range t.starts {
		if s := t.slot(t.text(i)); t.slots[s] == 0 {
			t.slots[s] = int32(i) + 1 //nolint:gosec // no more than 2^31, see maxChunks
		}
	}
}

// slot is where a text is, or where it would be put.
func (t *Table) slot(text string) int {
	mask := len(t.slots) - 1
	s := int(maphash.String(t.seed, text)) & mask //nolint:gosec // any bits do
	for t.slots[s] != 0 && t.text(int(t.slots[s])-1) != text {
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
	return int(t.slots[t.slot(p.base)]) - 1
}
