package nixdb

// mentionTable gives numbers to paths, which it knows by 96 bits of keyed hashes, as numbers does. It is a
// hash table two thirds full at most.
type mentionTable struct {
	slots []knownID // the id is one more than the number
	n     int
}

// leastMentions is how many slots there are at first.
const leastMentions = 1 << 14

// add gives the number of a path, which is next if it has none yet.
func (t *mentionTable) add(h pathHash, next uint32) (n uint32, known bool) {
	if 3*t.n >= 2*len(t.slots) {
		t.grow()
	}
	s := t.at(h)
	if s.id != 0 {
		return s.id - 1, true
	}
	t.n++
	*s = knownID{h, next + 1}
	return next, false
}

func (t *mentionTable) at(h pathHash) *knownID {
	mask := uint64(len(t.slots) - 1)
	for i := h.place(); ; i++ {
		if s := &t.slots[i&mask]; s.id == 0 || s.hash == h {
			return s
		}
	}
}

func (t *mentionTable) grow() {
	old := *t
	t.slots = mapped[knownID](max(leastMentions, 2*len(old.slots)))
	for _, e := range old.slots {
		if e.id != 0 {
			*t.at(e.hash) = e
		}
	}
	old.free()
}

// free gives the memory back. Nothing is in the table then.
func (t *mentionTable) free() {
	unmap(t.slots)
	*t = mentionTable{}
}
