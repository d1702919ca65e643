package worker

import (
	"context"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
)

// building is the store with the settings that the client has for its builds.
func (s *legacySession) building(o LegacyOptions) (store.Store, error) {
	v, ok := s.Store.(store.Overridable)
	if !ok {
		return s.Store, nil
	}
	return v.Override(o.settings())
}

func (s *legacySession) buildPaths(ctx context.Context) error {
	targets := s.in.derivedPaths()
	options := s.in.legacyOptions(s.version)
	if err := s.mayWrite("building paths"); err != nil {
		return err
	}
	view, err := s.building(options)
	if err != nil {
		return err
	}
	results, err := builderOf(view).BuildPaths(ctx, targets, store.BuildNormal)
	if err == nil {
		err = failures(ctx, s.in.dir, targets, results)
	}
	if err != nil {
		f := faultOf(err)
		s.out.Uint64(f.Status)
		s.out.Text(f.Message)
		return nil
	}
	s.out.Uint64(0)
	return nil
}

func (s *legacySession) buildDerivation(ctx context.Context) error {
	drv := s.in.path()
	var b *derivation.Basic
	name, err := derivation.NameFromPath(drv)
	if err == nil {
		b, err = derivation.ReadBasic(s.in.Reader, s.in.dir, name)
	}
	if err != nil {
		s.in.Fail(err)
	}
	options := s.in.legacyOptions(s.version)
	if err := s.mayWrite("building paths"); err != nil {
		return err
	}
	view, err := s.building(options)
	if err != nil {
		return err
	}
	d, err := store.Need[store.DerivationBuilder](view, "buildDerivation")
	if err != nil {
		return err
	}
	result, err := d.BuildDerivation(ctx, drv, b, store.BuildNormal)
	if err != nil {
		return err
	}
	return s.out.legacyResult(result, s.version)
}
