package worker

import (
	"context"
	"fmt"
	"slices"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

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

// CollectGarbage implements store.Collector. The protocol knows nothing of Measure and
// Survivors, without which there is a result, too, nor of SkipAlive and Referrers, without
// which it would be another one.
func (c *Client) CollectGarbage(ctx context.Context, o store.GCOptions) (*store.GCResult, error) {
	if o.SkipAlive || o.Referrers {
		return nil, &store.UnsupportedError{Op: "skip-alive and also-referrers", Store: c.URI(), Why: "a daemon cannot be asked for it"}
	}
	r := new(store.GCResult)
	err := c.ask(ctx, opCollectGarbage, func(e *encoder) {
		e.Uint64(uint64(o.Action))
		e.paths(storepath.SortUnique(slices.Clone(o.Paths)))
		e.Bool(o.IgnoreLiveness)
		e.Uint64(o.MaxFreed)
		for range 3 {
			e.Uint64(0) // obsolete
		}
	}, func(d *decoder) {
		r.Paths = d.Strings()
		r.BytesFreed = d.Uint64()
		d.Uint64() // obsolete
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Optimise implements store.Optimiser.
func (c *Client) Optimise(ctx context.Context) error {
	return c.ask(ctx, opOptimiseStore, nil, acknowledged)
}

// Verify implements store.Verifier.
func (c *Client) Verify(ctx context.Context, o store.VerifyOptions) (damaged bool, err error) {
	err = c.ask(ctx, opVerifyStore, func(e *encoder) {
		e.Bool(o.CheckContents)
		e.Bool(o.Repair)
	}, func(d *decoder) { damaged = d.Bool() })
	return damaged, err
}
