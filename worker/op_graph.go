package worker

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func serveQueryReferrers(ctx context.Context, s *session) error {
	p := s.in.path()
	if err := s.start(); err != nil {
		return err
	}
	q, err := store.Need[store.ReferrerQuerier](s.view, "queryReferrers")
	if err != nil {
		return err
	}
	referrers, err := q.Referrers(ctx, []storepath.Path{p})
	if err != nil {
		return err
	}
	return s.answerPaths(referrers[0], nil)
}

// Referrers implements store.ReferrerQuerier.
func (c *Client) Referrers(ctx context.Context, paths []storepath.Path) ([][]storepath.Path, error) {
	out := make([][]storepath.Path, len(paths))
	err := c.askMany(ctx, opQueryReferrers, len(paths),
		func(e *encoder, i int) { e.path(paths[i]) },
		func(d *decoder, i int) { out[i] = d.paths() })
	if err != nil {
		return nil, err
	}
	return out, nil
}

func serveQueryValidDerivers(ctx context.Context, s *session) error {
	p := s.in.path()
	if err := s.start(); err != nil {
		return err
	}
	q, err := store.Need[store.DeriverQuerier](s.view, "queryValidDerivers")
	if err != nil {
		return err
	}
	derivers, err := q.ValidDerivers(ctx, p)
	return s.answerPaths(derivers, err)
}

// ValidDerivers implements store.DeriverQuerier.
func (c *Client) ValidDerivers(ctx context.Context, p storepath.Path) (derivers []storepath.Path, err error) {
	err = c.ask(ctx, opQueryValidDerivers, func(e *encoder) { e.path(p) }, func(d *decoder) { derivers = d.paths() })
	return derivers, err
}

func serveQueryDeriver(ctx context.Context, s *session) error {
	p := s.in.path()
	if err := s.start(); err != nil {
		return err
	}
	info, err := store.PathInfoOf(ctx, s.view, p)
	if err != nil {
		return err
	}
	s.stop()
	s.out.optPath(info.Deriver)
	return nil
}

// drvOutputs reads the path of a derivation and gets its outputs.
func (s *session) drvOutputs(ctx context.Context) (map[string]storepath.Path, error) {
	drv := s.in.path()
	if err := s.start(); err != nil {
		return nil, err
	}
	q, err := store.Need[store.OutputQuerier](s.view, "queryDerivationOutputMap")
	if err != nil {
		return nil, err
	}
	return q.DerivationOutputs(ctx, drv)
}

func serveQueryDerivationOutputMap(ctx context.Context, s *session) error {
	outputs, err := s.drvOutputs(ctx)
	if err != nil {
		return err
	}
	s.stop()
	s.out.Uint64(uint64(len(outputs)))
	for _, name := range slices.Sorted(maps.Keys(outputs)) {
		s.out.Text(name)
		s.out.optPath(outputs[name])
	}
	return nil
}

// DerivationOutputs implements store.OutputQuerier.
func (c *Client) DerivationOutputs(ctx context.Context, drv storepath.Path) (map[string]storepath.Path, error) {
	outputs := map[string]storepath.Path{}
	err := c.ask(ctx, opQueryDerivationOutputMap, func(e *encoder) { e.path(drv) }, func(d *decoder) {
		for range d.Count() {
			name, p := d.TextMax(maxPath), d.optPath()
			if d.Err() != nil {
				return
			}
			outputs[name] = p
		}
	})
	if err != nil {
		return nil, err
	}
	return outputs, nil
}

func serveQueryDerivationOutputs(ctx context.Context, s *session) error {
	outputs, err := s.drvOutputs(ctx)
	if err != nil {
		return err
	}
	known := make(storepath.Set, len(outputs))
	for name, p := range outputs {
		if p.IsZero() {
			return fmt.Errorf("output '%s' of the derivation is not known yet", name)
		}
		known.Add(p)
	}
	return s.answerPaths(known.Sorted(), nil)
}

func serveQueryDerivationOutputNames(ctx context.Context, s *session) error {
	outputs, err := s.drvOutputs(ctx)
	if err != nil {
		return err
	}
	s.stop()
	s.out.Strings(slices.Sorted(maps.Keys(outputs)))
	return nil
}
