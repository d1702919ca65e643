package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

var _ check.Checker = (*Store)(nil)

// Verify compares the database with the objects, see [store.Verifier].
func (s *Store) Verify(ctx context.Context, o store.VerifyOptions) (bool, error) {
	release, err := s.hold()
	if err != nil {
		return false, err
	}
	defer release()
	return check.Verify(ctx, s.CheckTarget(s), o)
}

// Check compares the database with the objects, see [check.Checker].
func (s *Store) Check(ctx context.Context, o check.Options) (*check.Report, error) {
	return check.Run(ctx, s.CheckTarget(s), o)
}

// whole is a store with all of its layers, as repairs need it.
type whole interface {
	store.Adder
	store.Builder
	store.Ensurer
	store.DeriverQuerier
	store.OutputQuerier
	ValidPaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error)
}

// CheckTarget is what a check of this store looks at: one layer. all is the store that
// it is part of, or itself.
func (s *Store) CheckTarget(all whole) check.Target {
	t := check.Target{
		URI: s.uri, Dir: s.dir, RealDir: s.real, StateDir: s.state,
		Layers:      []check.Layer{{Name: s.uri, Dir: s.layer.Deletable, Store: s.Own(), DB: s.db, StateDir: s.state}},
		TrustedKeys: s.opts.TrustedKeys,
		ReadOnly:    s.opts.ReadOnly,
	}
	if s.opts.Leases != nil {
		t.More = append(t.More, s.checkLeases)
	}
	if s.opts.ReadOnly {
		return t
	}
	t.Tools = check.Tools{
		Lock: func(ctx context.Context, p storepath.Path) (func(), error) { return s.LockPath(ctx, p, false) },
		Add: func(ctx context.Context, info *store.PathInfo, nar io.Reader) error {
			return all.Add(ctx, info, nar, store.AddOptions{Repair: true, NoCheckSigs: true})
		},
		Fetch:      s.Substitution().Repair,
		Rebuild:    func(ctx context.Context, info *store.PathInfo) error { return s.rebuild(ctx, all, info) },
		Ensure:     all.EnsurePath,
		Reregister: s.reregister,
		Remove: func(ctx context.Context, names []string) error {
			_, err := s.layer.Remove(ctx, names)
			return err
		},
	}
	if s.layer.Lower != nil {
		t.Tools.Adopt = s.Adopt
	}
	return t
}

// rebuild builds the derivation anew that makes a path.
func (s *Store) rebuild(ctx context.Context, all whole, info *store.PathInfo) error {
	drvs, err := all.ValidDerivers(ctx, info.Path)
	if err != nil {
		return store.Inconclusive(err)
	}
	if slices.Contains(drvs, info.Deriver) {
		drvs = []storepath.Path{info.Deriver}
	}
	if len(drvs) == 0 {
		return errors.New("the derivation that makes it is not valid here")
	}
	targets := []derivation.DerivedPath{{Path: drvs[0], Outputs: []string{derivation.AllOutputs}}}
	results, err := all.BuildPaths(ctx, targets, store.BuildRepair)
	if err != nil {
		return store.Inconclusive(err)
	}
	for _, r := range results {
		if r != nil && !r.Status.OK() {
			err := fmt.Errorf("building '%s': %s", s.dir.Print(drvs[0]), r.Message)
			if r.Status == store.TransientFailure {
				err = store.Inconclusive(err)
			}
			return err
		}
	}
	return nil
}

// reregister writes down anew which outputs a valid derivation has.
func (s *Store) reregister(ctx context.Context, p storepath.Path) error {
	if !p.IsDerivation() {
		return nil
	}
	info, err := store.PathInfoOf(ctx, s.Own(), p)
	if err != nil {
		return err
	}
	reg, err := s.copyUp(ctx, info)
	if err != nil {
		return err
	}
	return s.db.Register(ctx, []nixdb.Registration{reg})
}
