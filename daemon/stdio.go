package daemon

import (
	"context"
	"io"
	"sync/atomic"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/worker"
)

// ServeStdio serves one connection on a pair of streams, of a client that is
// trusted unless Options.Force says otherwise: who can start a process that does
// this could also open the store. It returns when the client is done, or ctx
// ends, with [ErrStuck] if an operation does not end with ctx. A read from in may
// then still be under way, as nothing can end that. Operations are cancelled when
// nobody is left to read from out.
func (s *Server) ServeStdio(ctx context.Context, in io.Reader, out io.Writer) error {
	var busy atomic.Bool
	return s.onStreams(ctx, in, out, &busy, func(ctx context.Context, rw io.ReadWriter) error {
		return s.serve(ctx, rw, s.session(s.o.Force != store.NotTrusted, busy.Store))
	})
}

// ServeLegacy is ServeStdio for a client of the older protocol, see
// [worker.ServeLegacy].
func (s *Server) ServeLegacy(ctx context.Context, in io.Reader, out io.Writer, write bool) error {
	var busy atomic.Bool
	return s.onStreams(ctx, in, out, &busy, func(ctx context.Context, rw io.ReadWriter) error {
		return worker.ServeLegacy(ctx, rw, worker.LegacySession{Store: s.o.Store, Write: write, Busy: busy.Store})
	})
}

func (s *Server) onStreams(ctx context.Context, in io.Reader, out io.Writer, busy *atomic.Bool, serve func(context.Context, io.ReadWriter) error) error {
	h, err := newHangups()
	if err != nil {
		return err
	}
	defer h.stop()
	session, cancel := context.WithCancel(ctx)
	defer cancel()
	defer h.watch(out, cancel)()
	done := make(chan error, 1)
	go func() {
		done <- serve(session, struct {
			io.Reader
			io.Writer
		}{in, out})
	}()
	select {
	case err := <-done:
		if err == nil || over(session, err) {
			return nil
		}
		return err
	case <-ctx.Done():
	}
	if busy.Load() && !endsWithin(cutGrace, done) {
		return ErrStuck
	}
	return nil
}
