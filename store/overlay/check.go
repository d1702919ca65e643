package overlay

import (
	"context"
	"errors"
	"strings"

	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
)

var _ check.Checker = (*Store)(nil)

// Verify compares the upper's database with what shows, see [store.Verifier].
func (s *Store) Verify(ctx context.Context, o store.VerifyOptions) (bool, error) {
	if err := s.writable(); err != nil {
		return false, err
	}
	return check.Verify(ctx, s.CheckTarget(), o)
}

// writable is the error of a mount that is not what it should be.
func (s *Store) writable() error {
	if s.guard == nil {
		return nil
	}
	return s.guard.Check()
}

// Check compares all layers with what they say, see [check.Checker].
func (s *Store) Check(ctx context.Context, o check.Options) (*check.Report, error) {
	return check.Run(ctx, s.CheckTarget(), o)
}

// CheckTarget is what a check looks at: the upper, the lowers, and the mount.
func (s *Store) CheckTarget() check.Target {
	t := s.Store.CheckTarget(s)
	t.Layers[0].Name = "upper"
	for _, l := range s.lowers {
		t.Layers = append(t.Layers, checkLayer(l))
	}
	if !s.opts.NoCheckMount {
		t.Mount = &overlayfs.Expected{Lowers: s.lowers.dirs(), Upper: s.opts.UpperLayer, AllowRelative: true}
	}
	if t.ReadOnly {
		return t
	}
	t.Tools.Lean = s.leanBelow
	t.Tools.Refresh = func(ctx context.Context) error {
		s.stale.Store(true)
		return ignoreStaleListings(s.refresh(context.WithoutCancel(ctx)))
	}
	t.Tools.Remove = func(ctx context.Context, names []string) error {
		defer s.noteRemoving(ctx)()
		_, err := s.remove(ctx, names)
		return errors.Join(err, ignoreStaleListings(s.refresh(context.WithoutCancel(ctx))))
	}
	return t
}

// ignoreStaleListings passes over what matters to nobody but who holds a listing.
func ignoreStaleListings(err error) error {
	if errors.Is(err, overlayfs.ErrListingsStale) {
		return nil
	}
	return err
}

// checkLayer is a lower as a check sees it. The database of one that is layered itself says
// too little of it, so that it is asked.
func checkLayer(l *lower) check.Layer {
	out := check.Layer{Name: l.name, Dir: l.dir, Store: l}
	if _, layered := store.As[store.Layered](l.Store); layered {
		return out
	}
	if db, ok := store.As[interface{ DB() *nixdb.DB }](l.Store); ok {
		out.DB = db.DB()
	}
	if state, ok := store.As[interface{ StateDir() string }](l.Store); ok && strings.HasPrefix(state.StateDir(), "/") {
		out.StateDir = state.StateDir()
	}
	return out
}
