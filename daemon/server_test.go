package daemon

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/worker"
)

func pid() string { return strconv.Itoa(os.Getpid()) }

// rig is a server that speaks a protocol of lines: "work" is an operation that
// ends when release is closed or its context ends, "stuck" one that never
// notices its context; every line is answered.
type rig struct {
	t        *testing.T
	s        *Server
	socket   string
	stop     context.CancelFunc
	served   chan error
	release  chan struct{}
	working  chan struct{}       // gets one for each operation that has begun
	sessions chan worker.Session // gets one for each connection
	ended    chan error          // gets what operations ended with
	log      testenv.LockedBuffer
}

func newRig(t *testing.T, o Options) *rig {
	t.Helper()
	r := &rig{
		t: t, socket: filepath.Join(testenv.Scratch(t), "socket"), served: make(chan error, 1),
		release: make(chan struct{}), working: make(chan struct{}, 1000), sessions: make(chan worker.Session, 1000), ended: make(chan error, 1000),
	}
	o.Log = slog.New(slog.NewTextHandler(&r.log, nil))
	if o.Force == store.TrustUnknown {
		o.Force = store.Trusted
	}
	r.s = New(o)
	r.s.serve = r.serve
	l, err := Listen(r.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	over := make(chan struct{})
	go func() {
		defer close(over)
		r.served <- r.s.Serve(ctx, l)
	}()
	// The next test must not hear what this server tells systemd.
	t.Cleanup(func() {
		stop()
		<-over
	})
	return r
}

func (r *rig) serve(ctx context.Context, rw io.ReadWriter, s worker.Session) error {
	r.sessions <- s
	lines := bufio.NewScanner(rw)
	for lines.Scan() {
		s.Busy(true)
		r.working <- struct{}{}
		var err error
		switch lines.Text() {
		case "work":
			select {
			case <-r.release:
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
		case "stuck":
			<-r.release
		}
		r.ended <- err
		if err != nil {
			return err
		}
		if _, err := io.WriteString(rw, "done\n"); err != nil {
			return err
		}
		s.Busy(false)
	}
	return lines.Err()
}

func (r *rig) dial() net.Conn {
	r.t.Helper()
	c, err := net.Dial("unix", r.socket)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

// begin connects and starts an operation.
func (r *rig) begin(line string) net.Conn {
	r.t.Helper()
	c := r.dial()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		r.t.Fatal(err)
	}
	<-r.working
	return c
}

// said is everything that comes until the connection ends.
func said(t *testing.T, c net.Conn) string {
	t.Helper()
	all, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	return string(all)
}

func TestEndClosesIdleConnectionsAndLetsBusyOnesFinish(t *testing.T) {
	r := newRig(t, Options{DrainTimeout: time.Hour})
	silent := r.dial()
	<-r.sessions
	answered := r.begin("quick")
	if line, err := bufio.NewReader(answered).ReadString('\n'); line != "done\n" || err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	busy := r.begin("work")
	r.stop()
	if s := said(t, silent) + said(t, answered); s != "" {
		t.Errorf("idle connections got %q", s)
	}
	if _, err := os.Lstat(r.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	close(r.release)
	if s := said(t, busy); s != "done\n" {
		t.Errorf("the busy connection got %q", s)
	}
	if err := <-r.served; err != nil {
		t.Error(err)
	}
}

func TestEndCutsWhatTakesTooLong(t *testing.T) {
	r := newRig(t, Options{DrainTimeout: time.Millisecond})
	c := r.begin("work")
	r.stop()
	if err := <-r.served; err != nil {
		t.Error(err)
	}
	if err := <-r.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the operation ended with %v", err)
	}
	_, _ = io.Copy(io.Discard, c) // ends
}

func TestEndDoesNotWaitForWhatDoesNotEnd(t *testing.T) {
	r := newRig(t, Options{DrainTimeout: time.Millisecond})
	r.begin("stuck")
	r.stop()
	if err := <-r.served; !errors.Is(err, ErrStuck) {
		t.Error(err)
	}
	close(r.release)
}

func TestAClientThatGoesCancelsItsOperation(t *testing.T) {
	r := newRig(t, Options{})
	other := r.begin("work")
	gone := r.begin("work")
	gone.Close()
	if err := <-r.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the operation ended with %v", err)
	}
	close(r.release)
	if line, err := bufio.NewReader(other).ReadString('\n'); line != "done\n" || err != nil {
		t.Errorf("the other client got %q, %v", line, err)
	}
}

func TestAClientThatOnlyStopsSendingGetsItsAnswer(t *testing.T) {
	r := newRig(t, Options{})
	c := r.begin("work")
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	close(r.release)
	if s := said(t, c); s != "done\n" {
		t.Errorf("got %q", s)
	}
}

func TestMoreConnectionsThanAllowedWait(t *testing.T) {
	r := newRig(t, Options{MaxConnections: 2})
	first, _ := r.begin("quick"), r.begin("quick")
	third := r.dial()
	if _, err := io.WriteString(third, "quick\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.working:
		t.Error("a third connection is served")
	default:
	}
	// Before it has come to that, a place that becomes free is taken without a word.
	for !strings.Contains(r.log.String(), "the limit of connections is reached") {
		time.Sleep(time.Millisecond)
	}
	first.Close()
	<-r.working
	if line, err := bufio.NewReader(third).ReadString('\n'); line != "done\n" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
	if log := r.log.String(); strings.Count(log, "the limit of connections is reached") != 1 {
		t.Errorf("log: %s", log)
	}
}

// A client that says nothing does not keep a place from others.
func TestSilentClientsAreCutOff(t *testing.T) {
	r := newRig(t, Options{MaxConnections: 1, HandshakeTimeout: time.Millisecond})
	for range 2 {
		if s := said(t, r.dial()); s != "" {
			t.Errorf("got %q", s)
		}
	}
	if log := r.log.String(); !strings.Contains(log, "no handshake came within 1ms") {
		t.Errorf("log: %s", log)
	}
}

// Who is not trusted cannot take all connections.
func TestConnectionsAreKeptForTrustedUsers(t *testing.T) {
	s := New(Options{MaxConnections: 8})
	var strangers []*conn
	for range 7 {
		c := &conn{}
		if err := s.add(c); err != nil {
			t.Fatal(err)
		}
		strangers = append(strangers, c)
	}
	if err := s.add(&conn{}); !errors.Is(err, errCrowded) {
		t.Errorf("one too many: %v", err)
	}
	friend := &conn{trusted: true}
	if err := s.add(friend); err != nil {
		t.Errorf("a trusted user: %v", err)
	}
	s.remove(friend)
	if err := s.add(&conn{}); !errors.Is(err, errCrowded) {
		t.Errorf("in the place of a trusted user: %v", err)
	}
	s.remove(strangers[0])
	if err := s.add(&conn{}); err != nil {
		t.Errorf("when one of them has gone: %v", err)
	}
}

func TestOneStrangerOfFewIsServed(t *testing.T) {
	if err := New(Options{MaxConnections: 1}).add(&conn{}); err != nil {
		t.Error(err)
	}
}

func TestManyConnectionsAtOnce(t *testing.T) {
	r := newRig(t, Options{})
	const n = 300
	for range n {
		r.begin("work")
	}
	close(r.release)
	for range n {
		if err := <-r.ended; err != nil {
			t.Fatal(err)
		}
	}
}

func TestTrust(t *testing.T) {
	for _, force := range []store.Trust{store.Trusted, store.NotTrusted} {
		r := newRig(t, Options{Force: force})
		r.dial()
		if s := <-r.sessions; s.Trusted != (force == store.Trusted) {
			t.Errorf("forced %v: %v", force, s.Trusted)
		}
	}
}

func TestTheLogNamesTheClient(t *testing.T) {
	r := newRig(t, Options{})
	r.dial()
	<-r.sessions
	if want := fmt.Sprintf("accepted connection from pid %s, user ", pid()); !strings.Contains(r.log.String(), want) {
		t.Errorf("no %q in %s", want, r.log.String())
	}
}

func TestSystemdIsTold(t *testing.T) {
	path := filepath.Join(testenv.Scratch(t), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	r := newRig(t, Options{})
	buf := make([]byte, 100)
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		n, err := c.Read(buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("%q, %v; want %q", buf[:n], err, want)
		}
		r.stop()
	}
	if err := <-r.served; err != nil {
		t.Error(err)
	}
}

func TestServeStdio(t *testing.T) {
	for _, c := range []struct {
		force   store.Trust
		trusted bool
	}{{store.TrustUnknown, true}, {store.Trusted, true}, {store.NotTrusted, false}} {
		s := New(Options{Force: c.force})
		s.serve = func(_ context.Context, rw io.ReadWriter, ws worker.Session) error {
			if ws.Trusted != c.trusted {
				t.Errorf("force %v: trusted is %v", c.force, ws.Trusted)
			}
			_, err := io.Copy(rw, rw)
			return err
		}
		var out bytes.Buffer
		if err := s.ServeStdio(t.Context(), strings.NewReader("echo"), &out); err != nil || out.String() != "echo" {
			t.Errorf("%q, %v", out.String(), err)
		}
	}
}

func TestServeStdioEndsWithItsContext(t *testing.T) {
	s := New(Options{})
	begun := make(chan struct{})
	s.serve = func(_ context.Context, rw io.ReadWriter, _ worker.Session) error {
		close(begun)
		_, err := rw.Read(make([]byte, 1)) // nothing ever comes
		return err
	}
	pr, pw := io.Pipe()
	defer pw.Close()
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		<-begun
		stop()
	}()
	if err := s.ServeStdio(ctx, pr, io.Discard); err != nil {
		t.Error(err)
	}
}
