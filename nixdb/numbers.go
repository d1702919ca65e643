package nixdb

import (
	"hash/maphash"

	"github.com/strata-nix/strata/storepath"
)

// numbers remembers the numbers of valid paths during a load: the last million
// or so that were used, about 40 bytes each. It knows paths by 128 bits of keyed
// hashes, so nobody can make two that it takes for one.
type numbers struct {
	seeds    [2]maphash.Seed
	new, old map[[2]uint64]int64
	forgot   bool // something is not remembered any more
}

// numbersHalf is the size of each of the two generations.
const numbersHalf = 1 << 19

func newNumbers() numbers {
	return numbers{
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		new:   map[[2]uint64]int64{},
	}
}

func (n *numbers) key(p storepath.Path) [2]uint64 {
	return [2]uint64{maphash.String(n.seeds[0], p.Base()), maphash.String(n.seeds[1], p.Base())}
}

// get gives the number of a path, 0 if it does not know it.
func (n *numbers) get(p storepath.Path) int64 {
	key := n.key(p)
	if id, ok := n.new[key]; ok {
		return id
	}
	id, ok := n.old[key]
	if ok {
		n.put(key, id)
	}
	return id
}

func (n *numbers) set(p storepath.Path, id int64) { n.put(n.key(p), id) }

func (n *numbers) put(key [2]uint64, id int64) {
	if len(n.new) >= numbersHalf {
		n.forgot = n.forgot || n.old != nil
		n.old, n.new = n.new, make(map[[2]uint64]int64, numbersHalf)
	}
	n.new[key] = id
}
