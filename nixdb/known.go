package nixdb

import (
	"encoding/binary"
	"hash/maphash"
	"sync"

	"github.com/strata-nix/strata/storepath"
)

// knownIDs remembers the numbers of paths that were looked up, for one state of the
// database: whoever commits anything makes it forget everything. Clients ask about
// the same closures again and again, and most of the time nobody writes.
//
// It knows a path by 96 bits of a keyed hash, so that nobody can make two that it
// takes for one, and takes 16 bytes for each; see maxKnown. Its methods may be called
// by any number of goroutines.
type knownIDs struct {
	mu   sync.RWMutex
	of   dbState
	key  hashKey
	sets []knownSet // a power of two of them
	n    int        // entries
}

// knownSet is where a path must be, if it is known.
type knownSet [8]knownID

type knownID struct {
	hash pathHash
	id   uint32 // 0: none
}

// pathHash is what a path is known by.
type pathHash [12]byte

// place is a number that is different for different paths, to find a place by.
func (h *pathHash) place() uint64 { return binary.LittleEndian.Uint64(h[4:]) }

// hashKey is what makes a hash one that nobody can foresee.
type hashKey [2]maphash.Seed

func newHashKey() hashKey { return hashKey{maphash.MakeSeed(), maphash.MakeSeed()} }

func (k *hashKey) hash(p storepath.Path) (h pathHash) {
	binary.LittleEndian.PutUint32(h[:4], uint32(maphash.String(k[0], p.Base())))
	binary.LittleEndian.PutUint64(h[4:], maphash.String(k[1], p.Base()))
	return h
}

// Sizes in sets of eight paths.
const (
	leastKnown = 1 << 6
	maxKnown   = 1 << 17 // a million paths, 16 MiB
)

// set is where a hash belongs.
func (k *knownIDs) set(h pathHash) *knownSet { return &k.sets[h.place()&uint64(len(k.sets)-1)] }

// get fills in the numbers of those paths that are known in a state, and gives how
// many are not. ids has zeros.
func (k *knownIDs) get(state dbState, paths []storepath.Path, ids []int64) (unknown int) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.of != state || len(k.sets) == 0 {
		return len(paths)
	}
	for i, p := range paths {
		h := k.key.hash(p)
		set := k.set(h)
		for j := range set {
			if set[j].hash == h && set[j].id != 0 {
				ids[i] = int64(set[j].id)
				break
			}
		}
		if ids[i] == 0 {
			unknown++
		}
	}
	return unknown
}

// put remembers numbers; those that are zero are passed over, since who asks about a
// path that is not valid mostly makes it so.
func (k *knownIDs) put(state dbState, paths []storepath.Path, ids []int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.of != state {
		k.reset(state)
	}
	for i, p := range paths {
		if ids[i] > 0 && ids[i] < 1<<32 {
			k.insert(knownID{k.key.hash(p), uint32(ids[i])})
		}
	}
}

// reset forgets everything. A small table is as good as any to begin with.
func (k *knownIDs) reset(state dbState) {
	k.of, k.n = state, 0
	k.key = newHashKey()
	if len(k.sets) == leastKnown {
		clear(k.sets)
	} else {
		k.sets = make([]knownSet, leastKnown)
	}
}

// forget gives the memory back.
func (k *knownIDs) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.of, k.sets, k.n = dbState{}, nil, 0
}

func (k *knownIDs) insert(e knownID) {
	if k.n >= len(k.sets)*len(knownSet{})*3/4 && len(k.sets) < maxKnown {
		old := k.sets
		k.sets, k.n = make([]knownSet, 2*len(old)), 0
		for i := range old {
			for _, e := range old[i] {
				if e.id != 0 {
					k.place(e)
				}
			}
		}
	}
	k.place(e)
}

// place puts an entry into its set, if need be for another one.
func (k *knownIDs) place(e knownID) {
	set := k.set(e.hash)
	at := int(e.hash[0]) % len(set)
	for j := range set {
		if set[j].id == 0 {
			at = j
			k.n++
			break
		}
		if set[j].hash == e.hash {
			at = j
			break
		}
	}
	set[at] = e
}
