package nixdb

import "github.com/strata-nix/strata/storepath"

// numbers remembers the numbers of valid paths during a load: the last million
// or so that were used, about 25 bytes each. It knows paths by 96 bits of keyed
// hashes, so nobody can make two that it takes for one.
type numbers struct {
	key      hashKey
	new, old numberTable
	forgot   bool // something is not remembered any more
}

// numbersHalf is the size of each of the two generations.
const numbersHalf = 1 << 19

func newNumbers() numbers { return numbers{key: newHashKey()} }

// get gives the number of a path, 0 if it does not know it.
func (n *numbers) get(p storepath.Path) int64 {
	h := n.key.hash(p)
	if id := n.new.get(h); id != 0 {
		return id
	}
	id := n.old.get(h)
	if id != 0 {
		n.put(h, id)
	}
	return id
}

func (n *numbers) set(p storepath.Path, id int64) { n.put(n.key.hash(p), id) }

func (n *numbers) put(h pathHash, id int64) {
	if id >= 1<<32 {
		n.forgot = true // there is no room for it
		return
	}
	if n.new.n >= numbersHalf {
		n.forgot = n.forgot || n.old.n > 0
		n.old, n.new = n.new, numberTable{}
	}
	n.new.put(knownID{h, uint32(id)})
}

// numberTable is a hash table without deletion, two thirds full at most. The zero
// value is empty.
type numberTable struct {
	slots []knownID
	n     int
}

// at is where a hash is, or belongs.
func (t *numberTable) at(h pathHash) *knownID {
	for i := h.place() % uint64(len(t.slots)); ; i++ {
		if i == uint64(len(t.slots)) {
			i = 0
		}
		if s := &t.slots[i]; s.id == 0 || s.hash == h {
			return s
		}
	}
}

func (t *numberTable) get(h pathHash) int64 {
	if t.n == 0 {
		return 0
	}
	return int64(t.at(h).id)
}

func (t *numberTable) put(e knownID) {
	if 3*t.n >= 2*len(t.slots) {
		old := t.slots
		// The last time it gets just what a generation needs.
		t.slots = make([]knownID, min(max(1024, 4*len(old)), numbersHalf*3/2+3))
		for _, e := range old {
			if e.id != 0 {
				*t.at(e.hash) = e
			}
		}
	}
	s := t.at(e.hash)
	if s.id == 0 {
		t.n++
	}
	*s = e
}
