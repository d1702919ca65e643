package cacheserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/strata-nix/strata/store"
)

// Bounds of requests.
const (
	maxHeader   = 16 << 10
	maxListings = 16 // that are made at once
)

// cutGrace is how long a request may take to notice that it was cut.
const cutGrace = 5 * time.Second

// ErrStuck says that requests did not end after they were cut. They still use the
// store, which therefore cannot be closed.
var ErrStuck = errors.New("requests do not end")

// Server is an http.Handler that serves a store, for any number of requests at
// once.
type Server struct {
	o       Options
	hashes  store.HashPartQuerier
	metrics *metrics

	compressions, listings chan struct{}  // one for each that is under way
	active                 sync.WaitGroup // requests
}

// New makes a server. The error says that the store has not the abilities that a
// binary cache needs.
func New(o Options) (*Server, error) {
	s := &Server{o: o.withDefaults(), metrics: newMetrics()}
	var err error
	if s.hashes, err = store.Need[store.HashPartQuerier](o.Store, "queryPathFromHashPart"); err != nil {
		return nil, err
	}
	if _, ok := store.As[store.NarOpener](o.Store); !ok {
		if _, err := store.Need[store.NarSource](o.Store, "narFromPath"); err != nil {
			return nil, err
		}
	}
	if _, err := codecOf(s.o.Compression); err != nil {
		return nil, err
	}
	s.compressions = make(chan struct{}, s.o.MaxCompressions)
	s.listings = make(chan struct{}, maxListings)
	return s, nil
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.active.Add(1)
	defer s.active.Done()
	kind, answer := s.route(r.URL.Path)
	a := &answerWriter{ResponseWriter: w, control: http.NewResponseController(w), stall: s.o.StallTimeout}
	done := s.metrics.begin(kind)
	begun := time.Now()
	defer func() {
		done(a.status(), a.sent)
		s.o.Log.Debug(r.Method+" "+r.URL.EscapedPath(), "status", a.status(), "bytes", a.sent, "took", time.Since(begun).Round(time.Microsecond))
	}()
	a.extend()
	var err error
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		err = &statusError{http.StatusMethodNotAllowed, "this cache can only be read"}
	default:
		err = answer(a, r)
	}
	if err != nil {
		s.fail(a, r, err)
	}
}

// Serve accepts connections until ctx ends, and tells systemd, if that started
// us, that it is ready. Then it closes the listeners, lets the requests that are
// under way finish for at most the drain timeout, and cuts those that have not. An error
// means that a listener broke, and comes after the same orderly end, or is
// [ErrStuck].
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	srv := &http.Server{
		Handler:           s,
		TLSConfig:         s.o.TLS,
		ReadHeaderTimeout: s.o.HeaderTimeout,
		ReadTimeout:       2 * s.o.HeaderTimeout, // of a body that nobody wants
		IdleTimeout:       s.o.IdleTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ConnState:         s.metrics.connection,
		ErrorLog:          slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug), // strangers that speak no HTTP
	}
	accepting, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	slots := make(chan struct{}, s.o.MaxConnections)
	var loops sync.WaitGroup
	for _, l := range listeners {
		loops.Go(func() { stop(s.accept(srv, &limitedListener{Listener: l, slots: slots, closed: make(chan struct{})})) })
	}
	s.notify(sd.SdNotifyReady)
	<-accepting.Done()
	s.notify(sd.SdNotifyStopping)

	draining, late := context.WithTimeout(requests, s.o.DrainTimeout)
	defer late()
	err := srv.Shutdown(draining)
	if errors.Is(err, context.DeadlineExceeded) {
		s.o.Log.Warn("ending requests that are still under way")
		cut()
		err = errors.Join(srv.Close(), s.ended())
	}
	loops.Wait()
	if ctx.Err() == nil {
		err = errors.Join(context.Cause(accepting), err)
	}
	return err
}

// ended waits for requests that were cut to let go of the store.
func (s *Server) ended() error {
	done := make(chan struct{})
	go func() {
		s.active.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-time.After(cutGrace):
		return ErrStuck
	}
}

func (s *Server) accept(srv *http.Server, l net.Listener) error {
	if s.o.TLS != nil {
		return srv.ServeTLS(l, "", "")
	}
	return srv.Serve(l)
}

func (s *Server) notify(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		s.o.Log.Warn("cannot tell systemd", "state", state, "error", err)
	}
}

// statusError is an answer that is not what was asked for, with a sentence for
// the client.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }

func notHere(what string, args ...any) error {
	return &statusError{http.StatusNotFound, fmt.Sprintf(what, args...)}
}

// fail answers with an error, or cuts the connection if an answer has begun.
// What is wrong with the store is the operator's business and not the client's.
func (s *Server) fail(a *answerWriter, r *http.Request, err error) {
	var known *statusError
	switch {
	case errors.As(err, &known):
	case errors.Is(err, store.ErrNotValid), errors.Is(err, store.ErrNoLog), errors.Is(err, store.ErrUnsupported):
		known = &statusError{http.StatusNotFound, "not here"}
	case a.broken != nil || r.Context().Err() != nil: // the client's end
		panic(http.ErrAbortHandler)
	default:
		s.metrics.failed()
		s.o.Log.Error(r.URL.EscapedPath() + ": " + err.Error())
		known = &statusError{http.StatusServiceUnavailable, "the store cannot be read at the moment"}
	}
	if a.code != 0 {
		panic(http.ErrAbortHandler) // nothing else tells a client that it has not got all
	}
	h := a.Header()
	for _, name := range []string{"Content-Length", "Content-Encoding", "Etag", "Cache-Control", "Accept-Ranges"} {
		h.Del(name)
	}
	if known.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "5")
	}
	http.Error(a, known.text, known.status)
}
