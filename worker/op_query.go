package worker

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func serveIsValidPath(ctx context.Context, s *session) error {
	p := s.in.path()
	if err := s.start(); err != nil {
		return err
	}
	valid, err := s.view.ValidPaths(ctx, []storepath.Path{p})
	if err != nil {
		return err
	}
	s.stop()
	s.out.Bool(len(valid) > 0)
	return nil
}

func serveQueryValidPaths(ctx context.Context, s *session) error {
	paths := s.in.paths()
	substitute := s.in.version >= v1+27 && s.in.Bool()
	if err := s.start(); err != nil {
		return err
	}
	if substitute {
		substitutePaths(ctx, s.view, paths)
	}
	valid, err := s.view.ValidPaths(ctx, paths)
	return s.answerPaths(valid, err)
}

// answerPaths ends an operation whose answer is a set of paths.
func (s *session) answerPaths(paths []storepath.Path, err error) error {
	if err != nil {
		return err
	}
	s.stop()
	s.out.paths(paths)
	return nil
}

func serveQueryPathInfo(ctx context.Context, s *session) error {
	p := s.in.path()
	if err := s.start(); err != nil {
		return err
	}
	infos, err := s.view.PathInfos(ctx, []storepath.Path{p})
	if err != nil {
		return err
	}
	s.stop()
	s.out.Bool(infos[0] != nil)
	if infos[0] != nil {
		s.out.info(infos[0])
	}
	return nil
}

func serveQueryAllValidPaths(ctx context.Context, s *session) error {
	if err := s.start(); err != nil {
		return err
	}
	l, err := store.Need[store.Lister](s.view, "queryAllValidPaths")
	if err != nil {
		return err
	}
	var all []storepath.Path // the answer begins with their number
	for p, err := range l.AllPaths(ctx) {
		if err != nil {
			return err
		}
		all = append(all, p)
	}
	return s.answerPaths(all, nil)
}

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

func serveQueryPathFromHashPart(ctx context.Context, s *session) error {
	part := s.in.TextMax(maxPath)
	if err := storepath.CheckHashPart(part); err != nil {
		s.in.reject(fmt.Errorf("invalid hash part: %w", err))
	}
	if err := s.start(); err != nil {
		return err
	}
	q, err := store.Need[store.HashPartQuerier](s.view, "queryPathFromHashPart")
	if err != nil {
		return err
	}
	p, err := q.PathFromHashPart(ctx, part)
	if err != nil {
		return err
	}
	s.stop()
	s.out.optPath(p)
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

func serveNarFromPath(ctx context.Context, s *session) error {
	p := s.in.path()
	if err := s.start(); err != nil {
		return err
	}
	n, err := store.Need[store.NarSource](s.view, "narFromPath")
	if err != nil {
		return err
	}
	return n.NarFromPath(ctx, p, narAnswer{s})
}

// narAnswer begins the answer with the first byte, as an error can be told only
// before that.
type narAnswer struct{ s *session }

func (a narAnswer) Write(p []byte) (int, error) {
	if !a.s.answered {
		a.s.stop()
	}
	return a.s.out.Write(p)
}

func serveQueryRealisation(ctx context.Context, s *session) error {
	id := s.in.drvOutput()
	if err := s.start(); err != nil {
		return err
	}
	r, err := realisation(ctx, s.view, id)
	if err != nil {
		return err
	}
	s.stop()
	s.out.Bool(r != nil) // a set of at most one
	switch {
	case r == nil:
	case s.out.version < v1+31:
		s.out.path(r.OutPath)
	default:
		return s.out.realisation(r)
	}
	return nil
}

// realisation gives nil also when the store has none at all.
func realisation(ctx context.Context, st store.Store, id store.DrvOutput) (*store.Realisation, error) {
	q, ok := store.As[store.RealisationQuerier](st)
	if !ok {
		activity.Logf(ctx, activity.Debug, "'%s' has no realisations", st.URI())
		return nil, nil
	}
	rs, err := q.Realisations(ctx, []store.DrvOutput{id})
	if err != nil {
		return nil, err
	}
	return rs[0], nil
}
