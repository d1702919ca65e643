package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
	"time"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/worker"
)

// serveConn decides about a new connection and serves it to its end.
func (s *Server) serveConn(ctx context.Context, nc net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &conn{Conn: nc, cancel: cancel}
	defer c.Close()
	err := s.authorise(c)
	if err == nil {
		err = s.add(c)
	}
	if err != nil {
		if !errors.Is(err, errDraining) {
			s.o.Log.Error("while processing connection: " + err.Error())
		}
		return
	}
	defer s.remove(c)
	defer s.hangups.watch(nc, cancel)()

	s.o.Log.Info(c.greeting())
	session := s.session(c.trusted, s.gate.passing(c.setBusy))
	// Whoever says nothing holds a place that others wait for.
	late := time.AfterFunc(s.o.HandshakeTimeout, func() {
		s.o.Log.Warn(fmt.Sprintf("connection from pid %s, user %s: cut, no handshake came within %s", c.pid(), c.user, s.o.HandshakeTimeout))
		c.cut()
	})
	defer late.Stop()
	session.Greeted = func() { late.Stop() }
	err = s.serve(ctx, c, session)
	if err != nil && !over(ctx, err) {
		s.o.Log.Error(fmt.Sprintf("connection from pid %s, user %s: %v", c.pid(), c.user, err))
	}
}

// authorise finds out who connected. The error says that they may not.
func (s *Server) authorise(c *conn) error {
	c.user = "<unknown>"
	peer, known := peerOf(c.Conn)
	c.peer = peer
	if s.o.Force != store.TrustUnknown {
		c.trusted = s.o.Force == store.Trusted
		return nil
	}
	if !known {
		return errors.New("the kernel does not tell who it is from")
	}
	d, err := s.o.Users.Decide(peer.UID, peer.GID)
	if err != nil {
		return err
	}
	c.user, c.trusted = d.Name, d.Trusted
	return nil
}

func (c *conn) pid() string {
	if c.peer.PID == 0 {
		return "<unknown>"
	}
	return strconv.Itoa(c.peer.PID)
}

// greeting is the line that stock Nix logs, too.
func (c *conn) greeting() string {
	line := fmt.Sprintf("accepted connection from pid %s, user %s", c.pid(), c.user)
	if c.trusted {
		line += " (trusted)"
	}
	return line
}

func (s *Server) session(trusted bool, busy func(bool)) worker.Session {
	return worker.Session{
		Store:               s.o.Store,
		Trusted:             trusted,
		Version:             s.o.Version,
		TrustedSubstituters: s.o.TrustedSubstituters,
		Log:                 s.o.Log,
		Busy:                busy,
	}
}

// over tells that an error only says that the connection has ended, wherever in
// a conversation: clients are killed, and some only look whether we are there.
func over(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
