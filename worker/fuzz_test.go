package worker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// memConn is a connection whose other side has said everything beforehand.
type memConn struct {
	io.Reader
	io.Writer
}

func (memConn) Close() error                     { return nil }
func (memConn) LocalAddr() net.Addr              { return nil }
func (memConn) RemoteAddr() net.Addr             { return nil }
func (memConn) SetDeadline(time.Time) error      { return nil }
func (memConn) SetReadDeadline(time.Time) error  { return nil }
func (memConn) SetWriteDeadline(time.Time) error { return nil }

// noBugs fails a test when the server recovers from a panic.
type noBugs struct{ t testing.TB }

func (noBugs) Enabled(context.Context, slog.Level) bool { return true }
func (h noBugs) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h noBugs) WithGroup(string) slog.Handler          { return h }
func (h noBugs) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		r.Attrs(func(a slog.Attr) bool {
			h.t.Errorf("%s: %s", r.Message, a)
			return true
		})
	}
	return nil
}

// FuzzServe is a client that sends anything.
func FuzzServe(f *testing.F) {
	f.Fuzz(func(t *testing.T, sent []byte) {
		w := newWorld(t)
		o := Session{Store: w, Trusted: len(sent)%2 == 0, Version: "fuzz", Log: slog.New(noBugs{t})}
		_ = Serve(t.Context(), memConn{bytes.NewReader(sent), io.Discard}, o) // any error will do
		if left := w.TempRooted(); len(left) > 0 {
			t.Errorf("temporary roots stay: %v", left)
		}
	})
}

// FuzzClient is a daemon that answers anything; the first byte says what it is
// asked.
func FuzzClient(f *testing.F) {
	f.Fuzz(func(t *testing.T, says []byte) {
		if len(says) == 0 {
			return
		}
		talk := conversations[int(says[0])%len(conversations)]
		used := false
		dial := func(context.Context) (net.Conn, error) {
			if used {
				return nil, io.EOF
			}
			used = true
			return memConn{bytes.NewReader(says[1:]), io.Discard}, nil
		}
		c, err := NewClient(t.Context(), dial, ClientOptions{MaxConnections: 1})
		if err != nil {
			return
		}
		_, _ = talk.hold(t.Context(), c, newWorld(t)) // no panic, no hang
		_ = c.Close()
	})
}

// writeSeeds keeps every conversation as a seed for the fuzzers.
func writeSeeds(t *testing.T) {
	for i, talk := range conversations {
		for _, v := range []Version{v1 + 21, Latest} {
			w := newWorld(t)
			var rec recorder
			c := client(t, rec.dial(server(t, Session{Store: w, Trusted: true})), ClientOptions{latest: v})
			_, _ = talk.hold(t.Context(), c, w) // errors are as good as results
			_ = c.Close()
			name := fmt.Sprintf("%s-%s", talk.name, v)
			writeSeed(t, "FuzzServe", name, rec.sent)
			if v == Latest {
				writeSeed(t, "FuzzClient", name, append([]byte{byte(i)}, rec.received...))
			}
		}
	}
}

func writeSeed(t *testing.T, target, name string, data []byte) {
	dir := filepath.Join("testdata", "fuzz", target)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", data)
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
