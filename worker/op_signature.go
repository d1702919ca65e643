package worker

import (
	"context"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func serveAddSignatures(ctx context.Context, s *session) error {
	p := s.in.path()
	sigs := s.in.signatures()
	if err := s.start(); err != nil {
		return err
	}
	a, err := store.Need[store.SignatureAdder](s.view, "addSignatures")
	if err != nil {
		return err
	}
	return s.done(a.AddSignatures(ctx, p, sigs))
}

// AddSignatures implements store.SignatureAdder.
func (c *Client) AddSignatures(ctx context.Context, p storepath.Path, sigs []store.Signature) error {
	return c.ask(ctx, opAddSignatures, func(e *encoder) {
		e.path(p)
		e.signatures(sigs)
	}, acknowledged)
}
