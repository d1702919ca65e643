package worker

import (
	"context"
	"io"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func serveAddBuildLog(ctx context.Context, s *session) error {
	drv := s.in.basePath()
	err := s.framed(func(r io.Reader) error {
		if !s.Trusted {
			return denied("you are not privileged to add logs")
		}
		a, err := store.Need[store.LogAdder](s.view, "addBuildLog")
		if err != nil {
			return err
		}
		return a.AddBuildLog(ctx, drv, r)
	})
	return s.done(err)
}

// AddBuildLog implements store.LogAdder.
func (c *Client) AddBuildLog(ctx context.Context, drv storepath.Path, log io.Reader) error {
	return c.with(ctx, opAddBuildLog, func(k *conn) error {
		k.out.Uint64(opAddBuildLog)
		k.out.Text(drv.Base())
		err := k.upload(ctx, true, func(w io.Writer) error {
			_, err := io.Copy(w, log)
			return err
		})
		if err != nil {
			return err
		}
		k.in.Uint64()
		return k.in.end()
	})
}
