package worker

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

func serveAddTempRoot(ctx context.Context, s *session) error {
	p := s.in.path()
	if err := s.start(); err != nil {
		return err
	}
	roots := s.tempRoots()
	if roots == nil {
		activity.Logf(ctx, activity.Debug, "not creating a temporary root: nothing is ever collected in '%s'", s.view.URI())
		return s.done(nil)
	}
	return s.done(roots.Add(ctx, []storepath.Path{p}))
}

func serveAddIndirectRoot(ctx context.Context, s *session) error {
	link := s.in.TextMax(maxPath)
	if err := s.start(); err != nil {
		return err
	}
	k, err := store.Need[store.RootKeeper](s.view, "addIndirectRoot")
	if err != nil {
		return err
	}
	return s.done(k.AddIndirectRoot(ctx, link))
}

func serveAddPermRoot(ctx context.Context, s *session) error {
	p := s.in.path()
	link := s.in.TextMax(maxPath)
	if err := s.start(); err != nil {
		return err
	}
	if !s.Trusted {
		return denied("you are not privileged to create perm roots\n\n" +
			"hint: you can just do this client-side without special privileges, and probably want to do that instead.")
	}
	k, err := store.Need[store.RootKeeper](s.view, "addPermRoot")
	if err != nil {
		return err
	}
	final, err := k.AddPermRoot(ctx, p, link)
	if err != nil {
		return err
	}
	s.stop()
	s.out.Text(final)
	return nil
}

// serveSyncWithGC does nothing: temporary roots are seen by a collection as soon
// as they are added.
func serveSyncWithGC(_ context.Context, s *session) error {
	return s.done(s.start())
}

func serveFindRoots(ctx context.Context, s *session) error {
	if err := s.start(); err != nil {
		return err
	}
	c, err := store.Need[store.Collector](s.view, "findRoots")
	if err != nil {
		return err
	}
	roots, err := c.FindRoots(ctx, !s.Trusted)
	if err != nil {
		return err
	}
	s.stop()
	n := 0
	for _, links := range roots {
		n += len(links)
	}
	s.out.Uint64(uint64(n))
	for _, p := range slices.SortedFunc(maps.Keys(roots), storepath.Compare) {
		for _, link := range slices.Sorted(slices.Values(roots[p])) {
			s.out.Text(link)
			s.out.path(p)
		}
	}
	return nil
}

func serveCollectGarbage(ctx context.Context, s *session) error {
	action := s.in.Uint64()
	o := store.GCOptions{
		Action:         store.GCAction(action),
		Paths:          s.in.paths(),
		IgnoreLiveness: s.in.Bool(),
		MaxFreed:       s.in.Uint64(),
	}
	for range 3 {
		s.in.Uint64() // obsolete
	}
	if action > uint64(store.DeleteSpecific) {
		s.in.reject(fmt.Errorf("%w: Invalid GC action %d", wire.ErrFormat, action))
	}
	if err := s.start(); err != nil {
		return err
	}
	if o.IgnoreLiveness {
		return denied("you are not allowed to ignore liveness")
	}
	c, err := store.Need[store.Collector](s.view, "collectGarbage")
	if err != nil {
		return err
	}
	result, err := c.CollectGarbage(ctx, o)
	if err != nil {
		return err
	}
	s.stop()
	s.out.Strings(result.Paths)
	s.out.Uint64(result.BytesFreed)
	s.out.Uint64(0) // obsolete
	return nil
}

func serveOptimiseStore(ctx context.Context, s *session) error {
	if err := s.start(); err != nil {
		return err
	}
	o, err := store.Need[store.Optimiser](s.view, "optimiseStore")
	if err != nil {
		return err
	}
	return s.done(o.Optimise(ctx))
}

func serveVerifyStore(ctx context.Context, s *session) error {
	o := store.VerifyOptions{CheckContents: s.in.Bool(), Repair: s.in.Bool()}
	if err := s.start(); err != nil {
		return err
	}
	if o.Repair && !s.Trusted {
		return denied("you are not privileged to repair paths")
	}
	v, err := store.Need[store.Verifier](s.view, "verifyStore")
	if err != nil {
		return err
	}
	damaged, err := v.Verify(ctx, o)
	if err != nil {
		return err
	}
	s.stop()
	s.out.Bool(damaged)
	return nil
}
