package stack

import (
	"context"
	"errors"
	"os"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/storepath"
)

// openLowers opens the lower stores and checks that they fit together.
func (s *Stack) openLowers(ctx context.Context, lowers []*found) error {
	for _, f := range lowers {
		l, err := s.openLower(ctx, f)
		if err != nil {
			return err
		}
		s.lowers = append(s.lowers, l)
		s.run.Lowers = append(s.run.Lowers, f.runLower(l))
	}
	return nil
}

// runLower is what is recorded of an open lower.
func (f *found) runLower(l store.Store) RunLower {
	d, _ := store.As[store.Directory](l)
	return RunLower{Name: f.Name, Kind: f.kind, Given: f.String(), Real: f.Real, State: f.State, Dir: d.RealDir(), URI: l.URI()}
}

func (s *Stack) openLower(ctx context.Context, f *found) (store.Store, error) {
	if f.kind == KindImage {
		if err := f.checkPlaces(false); err != nil {
			return nil, err
		}
	}
	if f.kind == KindStore && f.Store.Scheme == "unix" && s.Config.covers(f.Store.Authority) {
		return nil, f.fail(false, nil, "its socket would be hidden by the mounts of the stack; give the store by its path")
	}
	l, err := s.parts.Open(ctx, f.reference(s.Config.StoreDir))
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, f.fail(false, err, "it cannot be opened")
	}
	if err := s.checkLower(f, l); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (s *Stack) checkLower(f *found, l store.Store) error {
	if l.Dir() != s.Config.StoreDir {
		return f.fail(false, nil, "its store directory is '%s', and that of the stack '%s'; they must be the same", l.Dir(), s.Config.StoreDir)
	}
	d, ok := store.As[store.Directory](l)
	if !ok || d.RealDir() == "" {
		return f.fail(false, nil, "its objects are not files of this machine; say with 'root' or 'real' where they are")
	}
	if st, err := os.Stat(d.RealDir()); err != nil || !st.IsDir() {
		return f.fail(false, err, "its objects should be in '%s'", d.RealDir())
	}
	if s.Config.covers(d.RealDir()) {
		return f.fail(false, nil, "its objects in '%s' would be hidden by the mounts of the stack; give the store by its path", d.RealDir())
	}
	return nil
}

// openStore opens the layered store, which closes the lowers from now on.
func (s *Stack) openStore(ctx context.Context) error {
	c := &s.Config
	o := s.parts.Upper
	o.Dir, o.Root, o.Real, o.State, o.Log = c.StoreDir, "", c.Mount, c.Upper.State, c.Upper.Log
	o.ReadOnly, o.Reflink = false, c.Upper.Reflink
	if o.URI == "" {
		o.URI = c.URI()
	}
	st, err := overlay.Open(ctx, overlay.Options{Upper: o, UpperLayer: c.Upper.Layer, Lean: s.leans(), Collected: s.background.collected.ring}, s.lowers)
	if err != nil {
		s.lowers = nil // closed by Open
		return err
	}
	s.Store = st
	return nil
}

// leans is how the store tells what it is about to lean on.
func (s *Stack) leans() func(ctx context.Context, lower int, paths []storepath.Path) error {
	if s.aloof == nil {
		return s.lean
	}
	return s.aloof.lean
}

// URI is what upstream would open the same layers by.
func (c *Config) URI() string {
	p := map[string][]string{
		"real": {c.Mount}, "state": {c.Upper.State}, "log": {c.Upper.Log}, "upper-layer": {c.Upper.Layer},
	}
	return store.Reference{Scheme: "local-overlay", Params: p}.String()
}
