package lazy

import (
	"sync"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// absent remembers what was not valid when somebody asked: an overlay over the mount may have seen
// that it is not there, and goes on believing so.
type absent struct {
	mu       sync.Mutex
	paths    storepath.Set
	appeared bool
}

// maxAbsent bounds what is remembered. When there is more, everything may have appeared.
const maxAbsent = 100_000

// note takes the answers to a question.
func (a *absent) note(paths []storepath.Path, infos []*store.PathInfo) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, p := range paths {
		switch {
		case infos[i] == nil:
			if a.paths == nil || len(a.paths) >= maxAbsent {
				a.appeared = a.appeared || a.paths != nil
				a.paths = storepath.Set{}
			}
			a.paths.Add(p)
		case a.paths.Has(p):
			delete(a.paths, p)
			a.appeared = true
		}
	}
}

// Appeared tells whether something has become valid, since it was asked last, that was not
// when somebody asked.
func (s *Store) Appeared() bool {
	a := &s.absent
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.appeared
	a.appeared = false
	return was
}
