package worker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

// fake is a daemon that says what it is told, whatever it is asked, to its first
// client.
func fake(t testing.TB, says []byte) Dialer {
	gone := false
	return func(context.Context) (net.Conn, error) {
		if gone {
			return nil, errors.New("nobody listens any more")
		}
		gone = true
		here, there := socketPair(t)
		go func() {
			_, _ = there.Write(says) // the client may hang up
			_ = there.(*net.UnixConn).CloseWrite()
			_, _ = io.Copy(io.Discard, there)
			_ = there.Close()
		}()
		return struct{ net.Conn }{here}, nil // so that nobody sees the answer coming
	}
}

// greeting is how a daemon begins.
func greeting(v Version) *script {
	s := new(script)
	s.encoder = &encoder{Writer: wire.NewWriter(&s.Buffer), dir: storepath.DefaultDir, version: v}
	s.Uint64(serverMagic)
	s.Uint64(uint64(v))
	if v >= v1+38 {
		s.Strings([]string{"unheard-of"})
	}
	if v >= v1+33 {
		s.Text("9.9 fake")
	}
	if v >= v1+35 {
		s.Uint64(uint64(store.Trusted))
	}
	s.Uint64(msgLast)
	return s
}

func TestUnfitDaemons(t *testing.T) {
	for name, test := range map[string]struct {
		words []uint64
		want  error
	}{
		"garbage":       {[]uint64{0x2f50545448}, ErrProtocol},
		"nothing":       {nil, ErrDisconnected},
		"half a word":   {[]uint64{serverMagic}, ErrDisconnected},
		"too old":       {[]uint64{serverMagic, uint64(v1 + 20)}, ErrTooOld},
		"another major": {[]uint64{serverMagic, 0x226}, ErrProtocol},
		"trust of 9":    {[]uint64{serverMagic, uint64(v1 + 35), 0, 9, msgLast}, wire.ErrFormat},
		"no messages":   {[]uint64{serverMagic, uint64(v1 + 30), 0x4711}, wire.ErrFormat},
	} {
		_, err := NewClient(t.Context(), fake(t, appendInts(nil, test.words...)), ClientOptions{})
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	refuse := func(context.Context) (net.Conn, error) { return nil, errors.New("nobody listens") }
	if _, err := NewClient(t.Context(), refuse, ClientOptions{URI: "unix:///x"}); err == nil || !strings.Contains(err.Error(), "cannot connect to 'unix:///x': nobody listens") {
		t.Errorf("no daemon: %v", err)
	}
}

// TestTruncatedAnswers cuts what a daemon says in every conversation at every byte.
func TestTruncatedAnswers(t *testing.T) {
	for _, talk := range conversations {
		if talk.name == "Handshake" || strings.HasPrefix(talk.name, "AddTempRoot") || strings.HasPrefix(talk.name, "QueryAllValid") {
			continue // more than one connection
		}
		w := newWorld(t)
		var rec recorder
		c := client(t, rec.dial(server(t, Session{Store: w, Trusted: true})), ClientOptions{MaxConnections: 1})
		start := len(rec.received)
		_, whole := talk.hold(t.Context(), c, newShared(w))
		_ = c.Close()
		for n := start; n < len(rec.received); n += 1 + (n-start)/100 {
			c, err := NewClient(t.Context(), fake(t, rec.received[:n]), ClientOptions{MaxConnections: 1})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := talk.hold(t.Context(), c, newShared(w)); err == nil && whole == nil {
				t.Errorf("%s: %d of %d bytes are enough", talk.name, n-start, len(rec.received)-start)
			}
			_ = c.Close()
		}
	}
}

func TestLyingDaemons(t *testing.T) {
	const huge = 1 << 60
	w := newWorld(t)
	ctx := t.Context()
	for name, test := range map[string]struct {
		say func(*script)
		ask func(*Client) error
	}{
		"list": {func(s *script) { s.Uint64(msgLast); s.Uint64(huge) }, func(c *Client) error {
			_, err := c.ValidPaths(ctx, []storepath.Path{w.hello, w.user})
			return err
		}},
		"all paths": {func(s *script) { s.Uint64(msgLast); s.Uint64(2); s.path(w.hello); s.Text("/etc/passwd") }, func(c *Client) error {
			for _, err := range c.AllPaths(ctx) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		"hash": {func(s *script) {
			s.Uint64(msgLast)
			s.Bool(true)
			s.Text("")
			s.Text("deadbeef")
			s.skip(7)
		}, func(c *Client) error {
			_, err := c.PathInfos(ctx, []storepath.Path{w.hello})
			return err
		}},
		"archive": {func(s *script) { s.Uint64(msgLast); s.Text("nix-archive-2"); s.Text("(") }, func(c *Client) error {
			return c.NarFromPath(ctx, w.hello, io.Discard)
		}},
		"result status": {func(s *script) { s.Uint64(msgLast); s.Uint64(1); s.path(w.hello); s.Uint64(200); s.skip(8) }, func(c *Client) error {
			_, err := c.BuildPaths(ctx, w.targets(), store.BuildNormal)
			return err
		}},
		"question": {func(s *script) { s.Uint64(msgRead); s.Uint64(huge) }, func(c *Client) error {
			_, err := c.ValidPaths(ctx, []storepath.Path{w.hello})
			return err
		}},
		"fields": {func(s *script) { s.Uint64(msgResult); s.Uint64(1); s.Uint64(1); s.Uint64(huge) }, func(c *Client) error {
			_, err := c.ValidPaths(ctx, []storepath.Path{w.hello})
			return err
		}},
		"traces": {func(s *script) {
			s.Uint64(msgError)
			s.Text("Error")
			s.Uint64(0)
			s.Text("")
			s.Text("message")
			s.Uint64(0)
			s.Uint64(huge)
		}, func(c *Client) error {
			_, err := c.ValidPaths(ctx, []storepath.Path{w.hello})
			return err
		}},
		"kind of error": {func(s *script) { s.Uint64(msgError); s.Text("Mistake"); s.skip(5) }, func(c *Client) error {
			_, err := c.ValidPaths(ctx, []storepath.Path{w.hello})
			return err
		}},
	} {
		s := greeting(Latest)
		test.say(s)
		c := client(t, fake(t, s.sent()), ClientOptions{MaxConnections: 1})
		if err := test.ask(c); err == nil || errors.As(err, new(*Fault)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func allOf(t *testing.T, l store.Lister) []storepath.Path {
	var all []storepath.Path
	for p, err := range l.AllPaths(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// TestDaemonStartedAnew: connections to the old one are not used again.
func TestDaemonStartedAnew(t *testing.T) {
	w := newWorld(t)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var old sync.WaitGroup
	dial := func(context.Context) (net.Conn, error) {
		here, there := socketPair(t)
		old.Go(func() {
			_ = Serve(ctx, there, Session{Store: w})
			_ = there.Close()
		})
		return here, nil
	}
	c := client(t, func(ctx context.Context) (net.Conn, error) { return dial(ctx) }, ClientOptions{})
	ask := func() {
		if valid, err := c.ValidPaths(t.Context(), []storepath.Path{w.hello}); err != nil || len(valid) != 1 {
			t.Fatal(valid, err)
		}
	}
	ask()
	stop()
	old.Wait()
	dial = server(t, Session{Store: w})
	ask()
	ask()
	if n := len(c.pool.idle); n != 1 {
		t.Errorf("%d connections are kept", n)
	}
	_ = c.Close()
}

func TestCancelledRequest(t *testing.T) {
	w := newWorld(t)
	entered := make(chan struct{})
	left := make(chan error, 1)
	h := &hook{w, func(ctx context.Context) {
		close(entered)
		<-ctx.Done()
		left <- ctx.Err()
	}}
	ctx, cancel := context.WithCancelCause(t.Context())
	here, there := socketPair(t)
	sctx, stop := context.WithCancel(context.Background())
	go func() { _ = Serve(sctx, there, Session{Store: h}) }()
	c := client(t, func(context.Context) (net.Conn, error) { return here, nil }, ClientOptions{MaxConnections: 1})
	reason := errors.New("enough")
	go func() {
		<-entered
		cancel(reason)
	}()
	if _, err := c.ValidPaths(ctx, []storepath.Path{w.hello}); !errors.Is(err, reason) {
		t.Errorf("error is %v", err)
	}
	if len(c.pool.idle) != 0 {
		t.Error("the connection would be used again")
	}
	stop()
	<-left
}

func TestErrorsInAPipeline(t *testing.T) {
	w := newWorld(t)
	c := client(t, server(t, Session{Store: w}), ClientOptions{MaxConnections: 1})
	var ids []store.DrvOutput
	for range 1000 {
		ids = append(ids, w.id)
	}
	k := c.pool.idle[0]
	err := c.askMany(t.Context(), opQueryRealisation, len(ids),
		func(e *encoder, i int) {
			if i == 300 {
				e.Text("nonsense")
			} else {
				e.Text(ids[i].String())
			}
		},
		func(d *decoder, i int) {
			for range d.Count() {
				d.realisation()
			}
			if i == 300 {
				t.Error("an answer to nonsense")
			}
		})
	if err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("error is %v", err)
	}
	if rs, err := c.Realisations(t.Context(), ids); err != nil || rs[999] == nil {
		t.Errorf("afterwards: %v", err)
	}
	if c.pool.idle[0] != k {
		t.Error("the connection was given up")
	}
}

// TestTwoHops holds all conversations with a server whose store is a Client.
func TestTwoHops(t *testing.T) {
	for _, talk := range conversations {
		t.Run(talk.name, func(t *testing.T) {
			say := func(w *world, dial Dialer) string {
				c := client(t, dial, ClientOptions{})
				v, err := talk.hold(t.Context(), c, w)
				if err != nil {
					return err.Error()
				}
				text, err := json.Marshal(printable(w.Dir(), v))
				if err != nil {
					t.Fatal(err)
				}
				return string(text)
			}
			near := newWorld(t)
			direct := say(near, server(t, Session{Store: near, Trusted: true}))
			far := newWorld(t)
			middle := client(t, server(t, Session{Store: far, Trusted: true}), ClientOptions{URI: "memory://"})
			relayed := say(far, server(t, Session{Store: middle, Trusted: true}))
			switch talk.name {
			case "SetOptions": // are for the server that is asked
			case "AddPermRoot": // would be made by the server in the middle, in the file system
			default:
				if relayed != direct {
					t.Errorf("directly %s\nby two hops %s", direct, relayed)
				}
			}
		})
	}
}

func TestPermRoot(t *testing.T) {
	w := newWorld(t)
	c := client(t, server(t, Session{Store: w}), ClientOptions{})
	dir := t.TempDir()
	link := filepath.Join(dir, "deeper", "result")
	for range 2 { // the second time it is replaced
		got, err := c.AddPermRoot(t.Context(), w.hello, link)
		if err != nil || got != link {
			t.Fatalf("%s, %v", got, err)
		}
	}
	roots, err := w.FindRoots(t.Context(), false)
	if err != nil || strings.Join(roots[w.hello], ",") == "" {
		t.Errorf("roots %v, %v", roots, err)
	}
	if _, err := c.AddPermRoot(t.Context(), w.hello, dir); err == nil || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("in place of a directory: %v", err)
	}
	if _, err := c.AddPermRoot(t.Context(), w.hello, w.Dir().Print(w.hello)+"/x"); err == nil || !strings.Contains(err.Error(), "is forbidden") {
		t.Errorf("in the store: %v", err)
	}
}

func TestPoolWaits(t *testing.T) {
	w := newWorld(t)
	c := client(t, server(t, Session{Store: w}), ClientOptions{MaxConnections: 1})
	k, err := c.pool.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.ValidPaths(ctx, []storepath.Path{w.hello}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	c.pool.put(k)
	if _, err := c.ValidPaths(t.Context(), []storepath.Path{w.hello}); err != nil {
		t.Error(err)
	}
}

// A socket is reached wherever it lies, as by stock Nix.
func TestDialUnixWhereThePathIsTooLongForASocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100), strings.Repeat("e", 100))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	l, err := net.Listen("unix", "socket")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := DialUnix(filepath.Join(dir, "socket"))(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
