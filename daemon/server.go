package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/trust"
	"github.com/strata-nix/strata/worker"
)

// Defaults of Options.
const (
	DefaultMaxConnections   = 4096
	DefaultDrainTimeout     = 8 * time.Second
	DefaultHandshakeTimeout = time.Minute
)

// cutGrace is how long an operation may take to notice that it was cancelled.
const cutGrace = time.Second

// ErrStuck says that operations did not end after they were cancelled. They
// still use the store, which therefore cannot be closed.
var ErrStuck = errors.New("operations do not end")

// Options say what is served, and to whom. Store and Version are needed.
type Options struct {
	Store   store.Store
	Version string // of the handshake
	// Users decides who may connect and who is trusted.
	Users trust.Users
	// Force, unless it is TrustUnknown, is how far everybody is trusted who can
	// open the socket, whatever Users says.
	Force store.Trust
	// TrustedSubstituters are those that clients may ask for who are not trusted.
	TrustedSubstituters []string
	// MaxConnections are served at once, DefaultMaxConnections if 0. More wait,
	// in the kernel's queue. An eighth of them is kept for users who are trusted:
	// others who would take it are turned away.
	MaxConnections int
	// DrainTimeout is how long operations that are under way at the end may go on,
	// DefaultDrainTimeout if 0.
	DrainTimeout time.Duration
	// HandshakeTimeout is how long a client may take to introduce itself,
	// DefaultHandshakeTimeout if 0. Afterwards it may be silent as long as it likes.
	HandshakeTimeout time.Duration
	// Log gets a line for each connection. nil: nothing is logged.
	Log *slog.Logger
}

// Server serves connections to a store. It is for one call of Serve.
type Server struct {
	o       Options
	slots   chan struct{}
	hangups *hangups
	serve   func(context.Context, io.ReadWriter, worker.Session) error
	gate    gate // for operations

	full     sync.Once // to say so
	mu       sync.Mutex
	conns    map[*conn]struct{}
	strange  int // of conns, of users who are not trusted
	draining bool
	running  sync.WaitGroup // connections
}

// New makes a server.
func New(o Options) *Server {
	if o.MaxConnections <= 0 {
		o.MaxConnections = DefaultMaxConnections
	}
	if o.DrainTimeout <= 0 {
		o.DrainTimeout = DefaultDrainTimeout
	}
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		o:     o,
		conns: map[*conn]struct{}{},
		serve: worker.Serve,
	}
}

// Serve accepts connections until ctx ends, and tells systemd, if that started
// us, that it is ready. Then it closes the listeners, lets the operations that
// are under way finish for at most the drain timeout, cancels those that have
// not, and returns nil. An error means that a listener broke, and comes after
// the same orderly end, or is [ErrStuck].
func (s *Server) Serve(ctx context.Context, listeners ...*Listener) error {
	h, err := newHangups()
	if err != nil {
		return err
	}
	defer h.stop()
	s.hangups = h
	// A loop that waits for its next connection holds a slot already.
	s.slots = make(chan struct{}, s.o.MaxConnections+len(listeners)-1)
	accepting, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	sessions, cutAll := context.WithCancel(context.WithoutCancel(ctx))
	defer cutAll()

	var loops sync.WaitGroup
	for _, l := range listeners {
		loops.Go(func() {
			if err := s.acceptLoop(accepting, sessions, l); err != nil {
				stop(err)
			}
		})
	}
	s.notify(sd.SdNotifyReady)
	<-accepting.Done()
	s.notify(sd.SdNotifyStopping)
	for _, l := range listeners {
		_ = l.Close()
	}
	loops.Wait()
	err = s.drain(cutAll)
	if ctx.Err() == nil {
		err = errors.Join(context.Cause(accepting), err)
	}
	return err
}

func (s *Server) notify(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		s.o.Log.Warn("cannot tell systemd", "state", state, "error", err)
	}
}

// acceptLoop ends with an error when the listener broke, else when ctx ends.
func (s *Server) acceptLoop(ctx, sessions context.Context, l *Listener) error {
	for {
		select {
		case s.slots <- struct{}{}:
		default:
			s.full.Do(func() {
				s.o.Log.Warn("the limit of connections is reached; more have to wait", "limit", s.o.MaxConnections)
			})
			select {
			case s.slots <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
		}
		nc, err := s.accept(ctx, l)
		if err != nil {
			<-s.slots
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go func() {
			defer func() { <-s.slots }()
			s.serveConn(sessions, nc)
		}()
	}
}

// accept waits out errors that concern one connection, or pass.
func (s *Server) accept(ctx context.Context, l *Listener) (net.Conn, error) {
	const shortest, longest = 5 * time.Millisecond, time.Second
	for pause := shortest; ; pause = min(2*pause, longest) {
		nc, err := l.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return nc, err
		}
		var te interface{ Temporary() bool } // ECONNABORTED, EMFILE, ENFILE, ENOBUFS
		if !errors.As(err, &te) || !te.Temporary() {
			return nil, err
		}
		s.o.Log.Error("accepting connection", "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// drain waits for the connections to end, and ends those that take too long.
func (s *Server) drain(cutAll context.CancelFunc) error {
	s.mu.Lock()
	s.draining = true
	for c := range s.conns {
		c.drain()
	}
	s.mu.Unlock()

	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	if endsWithin(s.o.DrainTimeout, done) {
		return nil
	}
	s.mu.Lock()
	s.o.Log.Warn("ending connections that are still busy", "connections", len(s.conns))
	cutAll()
	for c := range s.conns {
		c.cut()
	}
	s.mu.Unlock()
	if endsWithin(cutGrace, done) {
		return nil
	}
	return ErrStuck
}

func endsWithin[T any](d time.Duration, done <-chan T) bool {
	late := time.NewTimer(d)
	defer late.Stop()
	select {
	case <-done:
		return true
	case <-late.C:
		return false
	}
}

var (
	errDraining = errors.New("the daemon is closing")
	errCrowded  = errors.New("the connections that are left are for trusted users")
)

// add enters a connection in the books, unless there shall be no more.
func (s *Server) add(c *conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return errDraining
	case c.trusted:
	case s.strange >= s.o.MaxConnections-s.o.MaxConnections/8:
		return errCrowded
	default:
		s.strange++
	}
	s.conns[c] = struct{}{}
	s.running.Add(1)
	return nil
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.trusted {
		s.strange--
	}
	delete(s.conns, c)
	s.running.Done()
}
