package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/nixhash"
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

func TestFaults(t *testing.T) {
	s := greeting(Latest)
	s.Uint64(msgError)
	s.Text("Error")
	s.Uint64(uint64(activity.Notice))
	s.Text("")
	s.Text("path '\x1b[35;1m/nix/store/x\x1b[0m' is not valid")
	s.Uint64(0)
	s.Uint64(2)
	for _, trace := range []string{"while \x1b[1mlooking", "while asking"} {
		s.Uint64(0)
		s.Text(trace)
	}
	c := client(t, fake(t, s.sent()), ClientOptions{MaxConnections: 1})
	_, err := c.ValidPaths(t.Context(), []storepath.Path{newWorld(t).hello})
	var f *Fault
	if !errors.As(err, &f) || f.Message != "path '/nix/store/x' is not valid" || f.Level != activity.Notice ||
		strings.Join(f.Traces, ",") != "while looking,while asking" || !errors.Is(err, store.ErrNotValid) {
		t.Errorf("error is %#v", err)
	}

	old := greeting(v1 + 25)
	old.Uint64(msgError)
	old.Text("cannot delete path '/nix/store/x' since it is still alive")
	old.Uint64(100)
	c = client(t, fake(t, old.sent()), ClientOptions{MaxConnections: 1})
	_, err = c.ValidPaths(t.Context(), []storepath.Path{newWorld(t).hello})
	if !errors.As(err, &f) || f.Status != 100 || !errors.Is(err, store.ErrAlive) || errors.Is(err, store.ErrNotValid) {
		t.Errorf("old error is %#v", err)
	}
}

// TestErrorsSurviveTheWire sends what stores fail with to a client and looks at
// what it makes of it.
func TestErrorsSurviveTheWire(t *testing.T) {
	w := newWorld(t)
	full := w.Dir().Print(w.missing)
	h := nixhash.Of(nixhash.SHA256, "")
	for _, test := range []struct{ err, want error }{
		{&store.InvalidPathError{Path: full}, store.ErrNotValid},
		{&store.InvalidPathError{Path: full, By: full}, store.ErrNotValid},
		{fmt.Errorf("asking: %w", &store.UnsupportedError{Op: "x", Store: "y"}), store.ErrUnsupported},
		{&store.SignatureError{Path: full}, store.ErrNoSignature},
		{&store.HashMismatchError{What: "importing path", Want: h, Got: h}, store.ErrMismatch},
		{&store.SizeMismatchError{What: "importing path"}, store.ErrMismatch},
		{&store.DamageError{Layer: "lower 1", Path: full, Why: "it is gone"}, store.ErrDamaged},
		{denied("you are not privileged to repair paths"), store.ErrNotPrivileged},
		{fmt.Errorf("%w: disk", store.ErrReadOnly), store.ErrReadOnly},
	} {
		f := &failing{w, test.err}
		c := client(t, server(t, Session{Store: f}), ClientOptions{})
		_, err := c.ValidPaths(t.Context(), []storepath.Path{w.hello})
		if !errors.Is(err, test.want) || err.Error() != test.err.Error() {
			t.Errorf("%v became %v", test.err, err)
		}
	}
}

type failing struct {
	*world
	err error
}

func (f *failing) ValidPaths(context.Context, []storepath.Path) ([]storepath.Path, error) {
	return nil, f.err
}

// traced is an error with all that the protocol can say.
type traced struct{ error }

func (traced) Traces() []string   { return []string{"inner", "outer"} }
func (traced) ExitStatus() uint64 { return 101 }

func TestTracesAndStatus(t *testing.T) {
	w := newWorld(t)
	for _, v := range []Version{v1 + 25, Latest} {
		c := client(t, server(t, Session{Store: &failing{w, fmt.Errorf("around: %w", traced{errors.New("it")})}}), ClientOptions{latest: v})
		_, err := c.ValidPaths(t.Context(), []storepath.Path{w.hello})
		var f *Fault
		if !errors.As(err, &f) || f.Message != "around: it" {
			t.Fatalf("%s: %v", v, err)
		}
		if v < v1+26 && f.Status != 101 || v >= v1+26 && strings.Join(f.Traces, ",") != "inner,outer" {
			t.Errorf("%s: %+v", v, f)
		}
	}
}

// TestMessages passes on everything that an operation can tell.
func TestMessages(t *testing.T) {
	w := newWorld(t)
	h := &hook{w, func(ctx context.Context) {
		activity.Logf(ctx, activity.Info, "a line\nand another")
		activity.Logf(ctx, activity.Debug, "not asked for")
		ctx, outer := activity.Start(ctx, activity.Info, activity.Builds, "outer")
		ctx, inner := activity.Start(ctx, activity.Debug, activity.Build, "inner", activity.Text("drv"), activity.Int(7))
		inner.Progress(1, 2, 3, 4)
		var several sync.WaitGroup
		for range 8 {
			several.Go(func() {
				for range 100 {
					inner.Result(activity.BuildLogLine, activity.Text("line"))
				}
			})
		}
		several.Wait()
		activity.Warnf(ctx, "careful")
		inner.Stop()
		outer.Stop()
	}}
	for _, v := range []Version{v1 + 21, Latest} {
		var heard tale
		ctx := activity.With(t.Context(), &heard)
		c, err := NewClient(ctx, server(t, Session{Store: h}), ClientOptions{latest: v, Options: &Options{Verbosity: activity.Info}})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			heard.lines = nil
			if _, err := c.ValidPaths(ctx, []storepath.Path{w.hello}); err != nil {
				t.Fatal(err)
			}
		}
		_ = c.Close()
		var told []string
		lines := 0
		for _, l := range heard.lines {
			if l == "result 101 [{line 0 true}]" {
				lines++
			} else {
				told = append(told, l)
			}
		}
		want := "log 0 a line\nand another|start 104 outer []|start 105 inner [{drv 0 true} { 7 false}]|" +
			"result 105 [{ 1 false} { 2 false} { 3 false} { 4 false}]|log 0 warning: careful|stop|stop"
		if got := strings.Join(told, "|"); got != want || lines != 800 {
			t.Errorf("%s: heard %d lines and %s", v, lines, got)
		}
	}
}

// TestMessagesOutsideOfOperations wait for the next one.
func TestMessagesOutsideOfOperations(t *testing.T) {
	w := newWorld(t)
	var late context.Context
	h := &hook{w, func(ctx context.Context) { late = ctx }}
	var heard tale
	ctx := activity.With(t.Context(), &heard)
	c, err := NewClient(ctx, server(t, Session{Store: h}), ClientOptions{MaxConnections: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := func() {
		if _, err := c.ValidPaths(ctx, []storepath.Path{w.hello}); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	activity.Logf(late, activity.Info, "afterthought")
	if len(heard.lines) > 0 {
		t.Errorf("heard %v between operations", heard.lines)
	}
	ask()
	if got := strings.Join(heard.lines, "|"); got != "log 0 afterthought" {
		t.Errorf("heard %s", got)
	}
	// Nobody may fill the memory that way.
	for range 100_000 {
		activity.Logf(late, activity.Info, "%s", strings.Repeat("x", 100))
	}
	heard.lines = nil
	ask()
	if n := len(heard.lines); n == 0 || n > 2*softLimit/100 {
		t.Errorf("heard %d lines", n)
	}
}

// TestFlood: a client that does not listen makes the operation wait rather than
// the memory grow, and loses nothing but progress.
func TestFlood(t *testing.T) {
	w := newWorld(t)
	const lines, length = 3000, 4000
	var told atomic.Int64
	h := &hook{w, func(ctx context.Context) {
		_, a := activity.Start(ctx, activity.Info, activity.Builds, "")
		defer a.Stop()
		for range lines {
			a.Progress(0, 0, 0, 0)
			activity.Logf(ctx, activity.Info, "%s", strings.Repeat("x", length))
			told.Add(1)
		}
	}}
	here, there := socketPair(t)
	done := make(chan error, 1)
	go func() { done <- Serve(context.Background(), there, Session{Store: h}) }()
	s := newScript(Latest)
	s.Uint64(opIsValidPath)
	s.path(w.hello)
	if _, err := here.Write(s.sent()); err != nil {
		t.Fatal(err)
	}
	k := &conn{nc: here, in: &decoder{Reader: wire.NewReader(here), dir: w.Dir(), version: Latest}}
	for range 2 {
		k.in.Uint64()
	}
	k.in.features()
	k.in.Text()
	k.in.Uint64()
	var heard tale
	ctx := activity.With(t.Context(), &heard)
	if err := k.hear(ctx, nil); err != nil { // of the handshake
		t.Fatal(err)
	}
	if n := told.Load(); n >= lines {
		t.Errorf("%d lines were told to nobody", n)
	}
	if err := k.hear(ctx, nil); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, l := range heard.lines {
		if strings.HasPrefix(l, "log ") {
			n++
		}
	}
	if n != lines {
		t.Errorf("heard %d lines of %d", n, lines)
	}
	_ = here.Close()
	<-done
}

// TestOwnSourceFails: what could not be read must not become valid by what came
// before.
func TestOwnSourceFails(t *testing.T) {
	w := newWorld(t)
	c := client(t, server(t, Session{Store: w, Trusted: true}), ClientOptions{})
	broken := errors.New("disk on fire")
	half := func() io.Reader { return io.MultiReader(strings.NewReader("half"), failingReader{broken}) }
	spec := storepath.Spec{Method: storepath.Flat, Algorithm: nixhash.SHA256}
	if _, err := c.AddDump(t.Context(), store.Dump{Name: "x", Spec: spec, Contents: half()}, store.AddOptions{}); !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
	if err := c.AddBuildLog(t.Context(), w.drv, half()); !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
	info := w.foreign(t.Context())
	cut := w.nar(t.Context(), w.hello)[:60]
	if err := c.Add(t.Context(), info, strings.NewReader(cut), store.AddOptions{NoCheckSigs: true}); err == nil || errors.Is(err, ErrDisconnected) {
		t.Errorf("half an archive: %v", err)
	}
	for _, v := range []Version{v1 + 21, v1 + 24} {
		c := client(t, server(t, Session{Store: w, Trusted: true}), ClientOptions{latest: v})
		if err := c.Add(t.Context(), info, strings.NewReader(cut), store.AddOptions{NoCheckSigs: true}); err == nil || errors.Is(err, ErrDisconnected) {
			t.Errorf("%s: half an archive: %v", v, err)
		}
	}
	if n := len(allOf(t, w)); n != 4 {
		t.Errorf("there are %d objects", n)
	}
	if _, err := w.BuildLog(t.Context(), w.drv); !errors.Is(err, store.ErrNoLog) {
		t.Error("half a log was kept")
	}
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

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

// TestUploadsInConstantMemory sends much more than may be kept.
func TestUploadsInConstantMemory(t *testing.T) {
	const size = 256 << 20
	w := newWorld(t)
	h := &hashing{world: w}
	c := client(t, server(t, Session{Store: h, Trusted: true}), ClientOptions{})
	info := w.foreign(t.Context())
	before := heap()
	if err := c.Add(t.Context(), info, largeArchive(size), store.AddOptions{NoCheckSigs: true}); err != nil {
		t.Fatal(err)
	}
	if grown := int64(h.peak) - int64(before); grown > 16<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
	if want, _ := io.Copy(io.Discard, largeArchive(size)); h.n != want {
		t.Errorf("%d bytes arrived", h.n)
	}
}

// largeArchive is the NAR of a file of so many zeros, a multiple of eight.
func largeArchive(size int64) io.Reader {
	var b []byte
	for _, s := range []string{"nix-archive-1", "(", "type", "regular", "contents"} {
		b = appendText(b, s)
	}
	b = appendInts(b, uint64(size))
	return io.MultiReader(bytes.NewReader(b), io.LimitReader(zeros{}, size), bytes.NewReader(appendText(nil, ")")))
}

// hashing reads archives and keeps nothing.
type hashing struct {
	*world
	n    int64
	peak uint64
}

func (h *hashing) Add(_ context.Context, _ *store.PathInfo, r io.Reader, _ store.AddOptions) error {
	b := make([]byte, 1<<20)
	for i := 0; ; i++ {
		n, err := r.Read(b)
		h.n += int64(n)
		if i%1000 == 0 {
			h.peak = max(h.peak, heap())
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
