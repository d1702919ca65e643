package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

// TestMissingAbilities: every operation on a store that can only answer what is
// valid leaves the connection usable.
func TestMissingAbilities(t *testing.T) {
	w := newWorld(t)
	for _, talk := range conversations {
		if talk.name == "RemovedOperation" {
			continue
		}
		t.Run(talk.name, func(t *testing.T) {
			c := client(t, server(t, Session{Store: bare{w.Store}, Trusted: true}), ClientOptions{MaxConnections: 1})
			_, err := talk.hold(t.Context(), c, newShared(w))
			var fault *Fault
			if err != nil && !errors.Is(err, store.ErrUnsupported) && !errors.As(err, &fault) {
				t.Errorf("error is %v", err)
			}
			before := c.pool.idle
			valid, err := c.ValidPaths(t.Context(), []storepath.Path{w.hello})
			if err != nil || len(valid) != 1 {
				t.Fatalf("afterwards: %v, %v", valid, err)
			}
			if len(before) != 1 || before[0] != c.pool.idle[0] {
				t.Error("the connection was not used again")
			}
		})
	}
}

// hook is a store that calls a function before it answers.
type hook struct {
	*world
	do func(context.Context)
}

func (h *hook) ValidPaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	h.do(ctx)
	return h.world.ValidPaths(ctx, paths)
}

func (h *hook) Override(map[string]string) (store.Store, error) { return h, nil }

func TestPanicEndsOnlyItsConnection(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	h := &hook{w, func(context.Context) { panic("a bug") }}
	dial := server(t, Session{Store: h, Trusted: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
	c := client(t, dial, ClientOptions{MaxConnections: 1})
	roots := c.NewTempRoots()
	defer roots.Close()
	if err := roots.Add(t.Context(), []storepath.Path{w.hello}); err != nil {
		t.Fatal(err)
	}
	_, err := c.ValidPaths(t.Context(), []storepath.Path{w.hello})
	if err == nil || !strings.Contains(err.Error(), "internal error") {
		t.Errorf("error is %v", err)
	}
	h.do = func(context.Context) {}
	if _, err := c.ValidPaths(t.Context(), []storepath.Path{w.hello}); err != nil {
		t.Errorf("next connection: %v", err)
	}
	if len(w.TempRooted()) != 1 {
		t.Error("the other connection has lost its roots")
	}
	if !strings.Contains(log.String(), "a bug") || !strings.Contains(log.String(), "serve_test.go") {
		t.Errorf("log: %s", log.String())
	}
}

func TestRootsEndWithConnection(t *testing.T) {
	w := newWorld(t)
	o := Session{Store: w, Trusted: true}
	here, there := socketPair(t)
	done := make(chan error)
	go func() { done <- Serve(context.Background(), there, o) }()
	s := newScript(Latest)
	s.Uint64(opAddTempRoot)
	s.path(w.hello)
	if _, err := here.Write(s.sent()); err != nil {
		t.Fatal(err)
	}
	d := &decoder{Reader: wire.NewReader(here), version: Latest}
	d.Uint64()
	d.Uint64()
	d.features()
	d.Text()
	d.Uint64()
	wantLast(t, d)
	wantLast(t, d)
	if got := w.TempRooted(); len(got) != 1 {
		t.Errorf("rooted are %v", got)
	}
	_ = here.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := w.TempRooted(); len(got) != 0 {
		t.Errorf("still rooted are %v", got)
	}
}

// TestManyConnections holds two hundred conversations at once.
func TestManyConnections(t *testing.T) {
	w := newWorld(t)
	dial := server(t, Session{Store: w, Trusted: true})
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			c, err := NewClient(t.Context(), dial, ClientOptions{MaxConnections: 1})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			for range 20 {
				infos, err := c.PathInfos(t.Context(), []storepath.Path{w.hello, w.missing, w.user})
				if err != nil || infos[0] == nil || infos[1] != nil || infos[2] == nil {
					t.Errorf("%v, %v", infos, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// TestSlowReader: a client that asks for much and does not listen stops its own
// connection, no other.
func TestSlowReader(t *testing.T) {
	w := newWorld(t)
	var busy sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	here, there := socketPair(t)
	busy.Go(func() {
		defer there.Close()
		if err := Serve(ctx, there, Session{Store: w, Trusted: true}); err == nil {
			t.Error("a client that does not listen was served to its end")
		}
	})
	s := newScript(Latest)
	for range 20_000 {
		s.Uint64(opQueryPathInfo)
		s.path(w.user)
	}
	busy.Go(func() { _, _ = here.Write(s.sent()) }) // ends with the connection
	c := client(t, server(t, Session{Store: w}), ClientOptions{})
	for range 100 {
		if _, err := c.PathInfos(t.Context(), []storepath.Path{w.hello}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	busy.Wait()
}

func TestBusy(t *testing.T) {
	w := newWorld(t)
	var states []bool
	greeted := 0
	here, there := socketPair(t)
	done := make(chan error)
	go func() {
		done <- Serve(context.Background(), there, Session{
			Store: w, Busy: func(b bool) { states = append(states, b) }, Greeted: func() { greeted += 1 + 10*len(states) },
		})
	}()
	k := &conn{nc: here, in: &decoder{Reader: wire.NewReader(here), dir: w.Dir()}, out: &encoder{Writer: wire.NewWriter(here), dir: w.Dir()}}
	if err := k.greet(t.Context(), Latest); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := k.ask(t.Context(), opIsValidPath, func(e *encoder) { e.path(w.hello) }, acknowledged); err != nil {
			t.Fatal(err)
		}
	}
	_ = here.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(states); got != "[false true false true false true false]" {
		t.Errorf("states are %s", got)
	}
	if greeted != 1 {
		t.Errorf("the greeting was over %d times, or not before the first request", greeted)
	}
}

// TestCancelledOperation: the end of the context ends what is under way, and the
// client is told.
func TestCancelledOperation(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	h := &hook{w, func(ctx context.Context) {
		cancel()
		<-ctx.Done()
	}}
	here, there := socketPair(t)
	done := make(chan error)
	go func() { done <- Serve(ctx, there, Session{Store: h}) }()
	s := newScript(Latest)
	s.Uint64(opIsValidPath)
	s.path(w.hello)
	if _, err := here.Write(s.sent()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ends with %v", err)
	}
	_ = there.Close()
	said, _ := io.ReadAll(here)
	if !strings.Contains(string(said), "interrupted") {
		t.Errorf("client was told %q", said)
	}
}

// TestIdleConnectionEndsWithContext is about the wait for a request.
func TestIdleConnectionEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	here, there := socketPair(t)
	done := make(chan error)
	waiting := make(chan bool, 4)
	go func() { done <- Serve(ctx, there, Session{Store: newWorld(t), Busy: func(b bool) { waiting <- b }}) }()
	if _, err := here.Write(newScript(Latest).sent()); err != nil {
		t.Fatal(err)
	}
	<-waiting
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("ends with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("still waits")
	}
}
