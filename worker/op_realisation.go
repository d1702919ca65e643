package worker

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
)

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

// Realisations implements store.RealisationQuerier. A daemon older than
// realisations has none; one older than 1.31 tells only the path of each.
func (c *Client) Realisations(ctx context.Context, ids []store.DrvOutput) ([]*store.Realisation, error) {
	out := make([]*store.Realisation, len(ids))
	if c.proto < opByNumber(opQueryRealisation).since {
		return out, nil
	}
	err := c.askMany(ctx, opQueryRealisation, len(ids),
		func(e *encoder, i int) { e.Text(ids[i].String()) },
		func(d *decoder, i int) {
			for range d.Count() {
				var r *store.Realisation
				if d.version < v1+31 {
					r = &store.Realisation{ID: ids[i], OutPath: d.path()}
				} else {
					r = d.realisation()
				}
				if d.Err() != nil {
					return
				}
				out[i] = r
			}
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// serveRegisterDrvOutput takes realisations of trusted clients only: nothing in
// the request proves that what it says is true. Stock daemons take none at all,
// unless an experimental feature is on.
func serveRegisterDrvOutput(ctx context.Context, s *session) error {
	var r *store.Realisation
	if s.in.version < v1+31 {
		r = &store.Realisation{ID: s.in.drvOutput(), OutPath: s.in.basePath()}
	} else {
		r = s.in.realisation()
	}
	if err := s.start(); err != nil {
		return err
	}
	if !s.Trusted {
		return denied("you are not privileged to register derivation outputs")
	}
	a, err := store.Need[store.RealisationRegistrar](s.view, "registerDrvOutput")
	if err != nil {
		return err
	}
	if err := a.RegisterRealisations(ctx, []*store.Realisation{r}); err != nil {
		return err
	}
	s.stop()
	return nil
}

// RegisterRealisations implements store.RealisationRegistrar, one request each.
func (c *Client) RegisterRealisations(ctx context.Context, rs []*store.Realisation) error {
	texts := make([]string, len(rs))
	for i, r := range rs {
		text, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("realisation '%s': %w", r.ID, err)
		}
		texts[i] = string(text)
	}
	return c.askMany(ctx, opRegisterDrvOutput, len(rs),
		func(e *encoder, i int) {
			if e.version < v1+31 {
				e.Text(rs[i].ID.String())
				e.Text(rs[i].OutPath.Base())
			} else {
				e.Text(texts[i])
			}
		},
		func(*decoder, int) {})
}
