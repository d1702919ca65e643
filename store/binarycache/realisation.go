package binarycache

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/trust"
)

// maxRealisation bounds the bytes of a realisation.
const maxRealisation = 1 << 20

func realisationName(id store.DrvOutput) string { return "realisations/" + id.String() + ".doi" }

// Realisations gives what the cache has of outputs. Nobody has checked it.
func (s *Store) Realisations(ctx context.Context, ids []store.DrvOutput) ([]*store.Realisation, error) {
	if _, err := s.readable(ctx); err != nil {
		return nil, err
	}
	answers := make([]*store.Realisation, len(ids))
	known := make([]bool, len(ids))
	if s.disk != nil {
		for i, a := range s.disk.Realisations(ctx, ids) {
			if a != nil {
				answers[i], known[i] = a.Value, true
			}
		}
	}
	g, under := errgroup.WithContext(ctx)
	g.SetLimit(cap(s.asking))
	for i, id := range ids {
		if !known[i] {
			g.Go(func() (err error) {
				answers[i], err = s.fetchRealisation(under, id)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if s.disk != nil {
		learnt := map[store.DrvOutput]*store.Realisation{}
		for i, id := range ids {
			if !known[i] {
				learnt[id] = answers[i]
			}
		}
		s.disk.SetRealisations(ctx, learnt)
	}
	return answers, nil
}

// fetchRealisation asks the cache, nil if it has none.
func (s *Store) fetchRealisation(ctx context.Context, id store.DrvOutput) (*store.Realisation, error) {
	name := realisationName(id)
	text, err := s.readFile(ctx, name, "", maxRealisation)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := new(store.Realisation)
	if err := r.UnmarshalJSON(text); err != nil {
		return nil, s.bad(name, "", err)
	}
	if r.ID != id {
		return nil, s.bad(name, fmt.Sprintf("it is about another output, '%s'", r.ID), nil)
	}
	return r, nil
}

// RegisterRealisations writes realisations, signed by our keys, with the signatures
// that the cache has of them already. There are no transactions in a cache: after an
// error some may be there.
func (s *Store) RegisterRealisations(ctx context.Context, rs []*store.Realisation) error {
	if err := s.writable(ctx); err != nil {
		return err
	}
	if err := s.signing.acquire(ctx); err != nil {
		return err
	}
	defer s.signing.release()
	written := make([]*store.Realisation, len(rs))
	g, under := errgroup.WithContext(ctx)
	g.SetLimit(cap(s.asking))
	for i, r := range rs {
		g.Go(func() (err error) {
			written[i], err = s.writeRealisation(under, r)
			return err
		})
	}
	err := g.Wait()
	if s.disk != nil {
		learnt := map[store.DrvOutput]*store.Realisation{}
		for _, r := range written {
			if r != nil {
				learnt[r.ID] = r
			}
		}
		s.disk.SetRealisations(context.WithoutCancel(ctx), learnt)
	}
	return err
}

// writeRealisation gives what it wrote.
func (s *Store) writeRealisation(ctx context.Context, r *store.Realisation) (*store.Realisation, error) {
	old, err := s.fetchRealisation(ctx, r.ID)
	if err != nil && !isBadFile(err) { // what is broken is replaced
		return nil, err
	}
	all := *r
	if old != nil && old.OutPath == r.OutPath {
		all.Signatures = store.SortSignatures(append(append([]store.Signature(nil), old.Signatures...), r.Signatures...))
	}
	if len(s.o.Keys) > 0 {
		if err := trust.SignRealisation(&all, s.o.Keys...); err != nil {
			return nil, err
		}
	}
	text, err := all.MarshalJSON()
	if err != nil {
		return nil, err
	}
	return &all, s.writeFile(ctx, realisationName(r.ID), text, "", objstore.PutOptions{ContentType: typeJSON})
}
