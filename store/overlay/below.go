package overlay

import (
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
)

// below is what lies below the upper, for all views of a store.
type below struct {
	lowers lowers
	guard  *overlayfs.Guard // of the mount; nil with NoCheckMount
}

// guardOf guards a mount of the upper over some lowers.
func (s *Store) guardOf(ls lowers) *overlayfs.Guard {
	return overlayfs.NewGuard(s.opts.Upper.RealDir(), overlayfs.Expected{Lowers: ls.dirs(), Upper: s.opts.UpperLayer, AllowRelative: true})
}

// SetLowers puts other lowers below the upper, for all views of the store, which has to be
// mounted over them already. It gives back the old ones, which the caller closes; from now on
// the new ones are closed with the store. After an error everything is as before.
//
// No call may be under way, of this store or of a view.
func (s *Store) SetLowers(stores []store.Store) (old []store.Store, err error) {
	ls, err := newLowers(stores)
	if err == nil {
		err = ls.sameDir(s.Dir())
	}
	if err != nil {
		return nil, err
	}
	if s.guard != nil {
		guard := s.guardOf(ls)
		if err := guard.Check(); err != nil {
			return nil, err
		}
		s.guard = guard
	}
	for _, l := range s.lowers {
		old = append(old, l.Store)
	}
	s.lowers = ls
	s.growth.mu.Lock()
	defer s.growth.mu.Unlock()
	s.growth.known = ls.stamps()
	return old, nil
}
