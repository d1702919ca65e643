package binarycache

import (
	"container/list"
	"sync"
	"time"

	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/narinfo/diskcache"
	"github.com/strata-nix/strata/store"
)

// memory remembers the answers that were given last, by hash part.
type memory struct {
	ttl  diskcache.TTL
	room int // for entries, in places

	mu      sync.Mutex
	entries map[string]*list.Element
	recent  list.List // of *remembered, the one used last in front
	used    int       // places
}

type remembered struct {
	hash  string
	info  *narinfo.NarInfo // nil: the cache has none
	since time.Time
}

// newMemory makes one for size answers of ordinary size.
func newMemory(size int, ttl diskcache.TTL) *memory {
	return &memory{ttl: ttl, room: size, entries: map[string]*list.Element{}}
}

// referencesPerPlace is how many references fit into a place: so that a few
// answers with many of them do not take more memory than many with few.
const referencesPerPlace = 32

func (r *remembered) places() int {
	if r.info == nil {
		return 1
	}
	return 1 + (len(r.info.References)+len(r.info.Signatures))/referencesPerPlace
}

// get gives what is remembered and not too old.
func (m *memory) get(hash string, age store.AnswerAge) (info *narinfo.NarInfo, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.entries[hash]
	if !ok {
		return nil, false
	}
	r := e.Value.(*remembered)
	ttl, negative := age.Shortest(m.ttl.Positive, m.ttl.Negative)
	if r.info == nil {
		ttl = negative
	}
	if time.Since(r.since) >= ttl {
		m.drop(e)
		return nil, false
	}
	m.recent.MoveToFront(e)
	return r.info, true
}

// put remembers an answer; nil that there is none.
func (m *memory) put(hash string, info *narinfo.NarInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.entries[hash]; ok {
		m.drop(e)
	}
	ttl := m.ttl.Positive
	if info == nil {
		ttl = m.ttl.Negative
	}
	r := &remembered{hash: hash, info: info, since: time.Now()}
	if ttl <= 0 || r.places() > m.room {
		return
	}
	m.entries[hash] = m.recent.PushFront(r)
	m.used += r.places()
	for m.used > m.room {
		m.drop(m.recent.Back())
	}
}

// forget makes an answer unknown.
func (m *memory) forget(hash string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.entries[hash]; ok {
		m.drop(e)
	}
}

func (m *memory) drop(e *list.Element) {
	r := m.recent.Remove(e).(*remembered)
	delete(m.entries, r.hash)
	m.used -= r.places()
}
