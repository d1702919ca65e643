package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/wire"
)

// Errors that end a connection.
var (
	// ErrProtocol: the other side does not speak this protocol.
	ErrProtocol = errors.New("protocol mismatch")
	// ErrTooOld: the other side speaks a version that is too old.
	ErrTooOld = errors.New("protocol version is too old")
)

// cutGrace is how long a client may take to accept the last words of an
// operation that was cancelled.
const cutGrace = time.Second

// Session says what a connection is served with. Store and Version are needed.
type Session struct {
	Store store.Store
	// Trusted clients may do what could harm others.
	Trusted bool
	// Version is the text that clients show as the daemon's version.
	Version string
	// TrustedSubstituters are those that a client who is not trusted may ask for:
	// `substituters` and `trusted-substituters`.
	TrustedSubstituters []string
	// Log gets what the operator of the server should know. nil: nobody does.
	Log *slog.Logger
	// Busy, if not nil, is told true when a request begins to arrive, and false
	// when everything asked for has been answered and sent. It is called by the
	// goroutine of Serve.
	Busy func(bool)
	// Greeted, if not nil, is called once the handshake is over. A client that never
	// comes to that point is for the caller to cut off.
	Greeted func()
}

// Serve answers the requests of one client until it hangs up, which is no error.
// The caller closes conn; the store stays open.
//
// When ctx ends, the operation under way is cancelled and Serve returns an
// error; a wait for the client ends only if conn has SetReadDeadline, as a
// net.Conn has, or somebody closes it.
func Serve(ctx context.Context, conn io.ReadWriter, o Session) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Busy == nil {
		o.Busy = func(bool) {}
	}
	if o.Greeted == nil {
		o.Greeted = func() {}
	}
	s := &session{Session: o, conn: conn, view: o.Store}
	b := buffers.Get().(*buffer)
	b.in.Reset(s)
	b.out.Reset(conn)
	s.in = &decoder{Reader: b.in, dir: o.Store.Dir()}
	s.out = &encoder{Writer: b.out, dir: o.Store.Dir()}
	defer s.closeRoots()
	if c, ok := conn.(interface {
		SetReadDeadline(time.Time) error
		SetWriteDeadline(time.Time) error
	}); ok {
		stop := context.AfterFunc(ctx, func() {
			_ = c.SetReadDeadline(time.Unix(1, 0)) // a connection without deadlines is one that somebody closes
			_ = c.SetWriteDeadline(time.Now().Add(cutGrace))
		})
		defer stop()
	}
	err := s.run(ctx)
	if err == nil {
		// The client hung up where a request could have begun. So nothing of what it asked
		// for is still under way, and nobody else has these.
		b.in.Reset(nil)
		b.out.Reset(nil)
		buffers.Put(b)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// buffer is what a connection is read and written through.
type buffer struct {
	in  *wire.Reader
	out *wire.Writer
}

// buffers are those of connections that have ended, for the next ones: clients that ask one
// question each come by the thousand.
var buffers = sync.Pool{New: func() any { return &buffer{wire.NewReader(nil), wire.NewWriter(nil)} }}

// session is one connection. It belongs to one goroutine, but for the tunnel.
type session struct {
	Session
	conn   io.ReadWriter
	in     *decoder
	out    *encoder
	tunnel *tunnel

	features []string // that both sides know

	view  store.Store     // the store, with the settings that the client chose
	roots store.TempRoots // nil as long as there are none

	idle     bool // waits for a request
	working  bool // between start and stop
	answered bool // the answer, or an error, has begun
}

// Read is how bytes come from the client. Before it waits it sends what the
// client may be waiting for.
func (s *session) Read(p []byte) (int, error) {
	if !s.working {
		if err := s.out.Flush(); err != nil {
			return 0, err
		}
	}
	if !s.idle {
		return s.conn.Read(p)
	}
	s.Busy(false)
	n, err := s.conn.Read(p)
	s.Busy(true)
	return n, err
}

// run serves requests, after the greeting.
func (s *session) run(ctx context.Context) error {
	defer s.Busy(false)
	if err := s.greet(ctx); err != nil {
		return err
	}
	s.Greeted()
	ctx = activity.With(ctx, s.tunnel)
	for ctx.Err() == nil {
		s.idle = true
		number := s.in.Uint64()
		s.idle = false
		if err := s.in.Err(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := s.handle(ctx, number); err != nil {
			_ = s.out.Flush() // the first error counts
			return err
		}
	}
	_ = s.out.Flush() // the client may be gone
	return ctx.Err()
}

// handle serves one request. Its error ends the connection.
func (s *session) handle(ctx context.Context, number uint64) error {
	s.answered = false
	s.in.bad = nil
	err := s.perform(ctx, number)
	if err == nil && s.answered {
		return s.out.Err()
	}
	if err == nil {
		err = fmt.Errorf("%w: '%s' gave no answer", errBug, opName(number))
	}
	s.Log.Debug("operation failed", "op", opName(number), "error", err)
	cut := s.answered && !errors.Is(err, errAnswered) // an answer that breaks off
	if !s.answered {
		s.fail(err)
	}
	switch {
	case s.in.Err() != nil:
		return fmt.Errorf("%s: %w", opName(number), s.in.Err())
	case cut || errors.Is(err, errBug) || errors.Is(err, errUnknownOp):
		return fmt.Errorf("%s: %w", opName(number), err)
	}
	return s.out.Err()
}

var (
	// errAnswered wraps the error of an operation whose client has it already.
	errAnswered = errors.New("already told")
	// errBug is what a panic becomes.
	errBug = errors.New("internal error of the daemon")
)

// perform calls the function of the operation. A panic there is a bug, of which
// only this connection shall suffer.
func (s *session) perform(ctx context.Context, number uint64) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.Log.Error("bug: panic while serving a request", "op", opName(number), "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("%w while performing '%s'; its log says more", errBug, opName(number))
		}
	}()
	o := opByNumber(number)
	if o == nil || o.serve == nil || !o.among(s.features) {
		return fmt.Errorf("%w %d", errUnknownOp, number)
	}
	return o.serve(ctx, s)
}

// start ends the reading of a request: its error says what is wrong with it.
// From here on the client hears what the operation tells.
func (s *session) start() error {
	if err := s.in.end(); err != nil {
		return err
	}
	s.working = true
	s.tunnel.start()
	return nil
}

// stop begins the answer.
func (s *session) stop() {
	s.halt()
	s.out.Uint64(msgLast)
	s.answered = true
}

// fail answers with an error.
func (s *session) fail(err error) {
	s.halt()
	s.out.fault(faultOf(err))
	s.answered = true
}

func (s *session) halt() {
	if s.working {
		s.tunnel.stop()
		s.working = false
	}
}

// done answers an operation that has no result but a number that nobody needs.
func (s *session) done(err error) error {
	if err != nil {
		return err
	}
	s.stop()
	s.out.Uint64(1)
	return nil
}

// tempRoots are the roots of this connection, nil if the store has no use for
// any.
func (s *session) tempRoots() store.TempRoots {
	if s.roots == nil {
		if r, ok := store.As[store.TempRooter](s.view); ok {
			s.roots = r.NewTempRoots()
		}
	}
	return s.roots
}

func (s *session) closeRoots() {
	if s.roots == nil {
		return
	}
	if err := s.roots.Close(); err != nil {
		s.Log.Warn("closing temporary roots", "error", err)
	}
}
