package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
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

func (traced) Traces() []string { return []string{"inner", "outer"} }

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

// TestMessageBytes has the bytes of every kind of message.
func TestMessageBytes(t *testing.T) {
	var golden strings.Builder
	for _, v := range []Version{v1 + 19, v1 + 20, Latest} {
		var sent bytes.Buffer
		u := newTunnel(wire.NewWriter(&sent), v)
		u.ids = 1 << 32
		u.start()
		u.Log(activity.Info, "a line")
		u.Log(activity.Debug, "not sent")
		u.Start(activity.Event{ID: 1, Level: activity.Talkative, Type: activity.Realise})
		u.Start(activity.Event{ID: 2, Parent: 1, Level: activity.Info, Type: activity.CopyPath, Text: "copying",
			Fields: []activity.Field{activity.Text("/nix/store/x"), activity.Int(7)}})
		u.Result(2, activity.Progress, []activity.Field{activity.Int(1), activity.Int(10), activity.Int(1), activity.Int(0)})
		u.Stop(2)
		u.Stop(1)
		u.stop()
		u.out.Uint64(msgLast)
		if err := u.out.Flush(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&golden, "=== protocol %s\n%s\n", v, dump(sent.Bytes()))
	}
	compareGolden(t, filepath.Join("testdata", "messages.txt"), golden.String())
}
