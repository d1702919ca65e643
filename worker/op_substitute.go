package worker

import (
	"context"
	"slices"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// substitutable says which of paths could be had from elsewhere; none, if the
// store has no substituters.
func substitutable(ctx context.Context, st store.Store, paths []storepath.Path) ([]storepath.Path, error) {
	q, ok := store.As[store.SubstituterQuerier](st)
	if !ok || len(paths) == 0 {
		return nil, nil
	}
	return q.SubstitutablePaths(ctx, paths)
}

// substitutePaths gets what can be had of paths, as one request. What cannot is
// only a warning: the client learns what is valid afterwards.
func (s *session) substitutePaths(ctx context.Context, paths []storepath.Path) {
	var targets []derivation.DerivedPath
	for _, p := range paths {
		if !p.IsDerivation() {
			targets = append(targets, derivation.DerivedPath{Path: p})
		}
	}
	missing, err := plannerOf(s.view).QueryMissing(ctx, targets)
	if err != nil {
		activity.Warnf(ctx, "%v", err)
		return
	}
	there := storepath.NewSet(missing.WillSubstitute...)
	targets = slices.DeleteFunc(targets, func(t derivation.DerivedPath) bool { return !there.Has(t.Path) })
	if len(targets) == 0 {
		return
	}
	results, err := builderOf(s.view).BuildPaths(s.rooted(ctx), targets, store.BuildNormal)
	if err != nil {
		activity.Warnf(ctx, "%v", err)
	}
	for _, r := range results {
		if r != nil && !r.Status.OK() {
			activity.Warnf(ctx, "%s", r.Message)
		}
	}
}

func serveQuerySubstitutablePaths(ctx context.Context, s *session) error {
	paths := s.in.paths()
	if err := s.start(); err != nil {
		return err
	}
	found, err := substitutable(ctx, s.view, paths)
	return s.answerPaths(found, err)
}

// substitutables gives only what there is.
func substitutables(ctx context.Context, st store.Store, paths []storepath.Path, cas []storepath.ContentAddress) ([]*store.Substitutable, error) {
	q, ok := store.As[store.SubstituterQuerier](st)
	if !ok || len(paths) == 0 {
		return nil, nil
	}
	infos, err := q.Substitutables(ctx, paths, cas)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(infos), func(i *store.Substitutable) bool { return i == nil }), nil
}

func (e *encoder) substitutable(i *store.Substitutable) {
	e.optPath(i.Deriver)
	e.paths(i.References)
	e.Uint64(i.DownloadSize)
	e.Uint64(i.NarSize)
}

func serveQuerySubstitutablePathInfo(ctx context.Context, s *session) error {
	p := s.in.path()
	if err := s.start(); err != nil {
		return err
	}
	infos, err := substitutables(ctx, s.view, []storepath.Path{p}, make([]storepath.ContentAddress, 1))
	if err != nil {
		return err
	}
	s.stop()
	s.out.Bool(len(infos) > 0)
	if len(infos) > 0 {
		s.out.substitutable(infos[0])
	}
	return nil
}

func serveQuerySubstitutablePathInfos(ctx context.Context, s *session) error {
	var paths []storepath.Path
	var cas []storepath.ContentAddress
	if s.in.version < v1+22 {
		paths = s.in.paths()
		cas = make([]storepath.ContentAddress, len(paths))
	} else {
		for range s.in.Count() {
			paths = append(paths, s.in.path())
			cas = append(cas, s.in.contentAddress())
			if s.in.Err() != nil {
				break
			}
		}
	}
	if err := s.start(); err != nil {
		return err
	}
	infos, err := substitutables(ctx, s.view, paths, cas)
	if err != nil {
		return err
	}
	s.stop()
	s.out.Uint64(uint64(len(infos)))
	for _, i := range infos {
		s.out.path(i.Path)
		s.out.substitutable(i)
	}
	return nil
}

// SubstitutablePaths implements store.SubstituterQuerier.
func (c *Client) SubstitutablePaths(ctx context.Context, paths []storepath.Path) (found []storepath.Path, err error) {
	err = c.ask(ctx, opQuerySubstitutablePaths, func(e *encoder) { e.paths(paths) }, func(d *decoder) { found = d.paths() })
	return found, err
}

// Substitutables implements store.SubstituterQuerier.
func (c *Client) Substitutables(ctx context.Context, paths []storepath.Path, cas []storepath.ContentAddress) ([]*store.Substitutable, error) {
	found := make(map[storepath.Path]*store.Substitutable, len(paths))
	err := c.ask(ctx, opQuerySubstitutablePathInfos, func(e *encoder) {
		if e.version < v1+22 {
			e.paths(paths)
			return
		}
		e.Uint64(uint64(len(paths)))
		for i, p := range paths {
			e.path(p)
			e.Text(cas[i].String())
		}
	}, func(d *decoder) {
		for range d.Count() {
			s := &store.Substitutable{
				Path:         d.path(),
				Deriver:      d.optPath(),
				References:   d.paths(),
				DownloadSize: d.Uint64(),
				NarSize:      d.Uint64(),
			}
			if d.Err() != nil {
				return
			}
			found[s.Path] = s
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]*store.Substitutable, len(paths))
	for i, p := range paths {
		out[i] = found[p]
	}
	return out, nil
}
