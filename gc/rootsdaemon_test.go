package gc

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/internal/unixsocket"
)

// sayer listens as a roots daemon and says the same to everybody.
func sayer(t *testing.T, say func(net.Conn)) (stateDir string) {
	t.Helper()
	state := testenv.Scratch(t)
	socket := filepath.Join(state, RootsSocket)
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := unixsocket.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			say(c)
		}
	}()
	return state
}

func TestDaemonRoots(t *testing.T) {
	a, b := dir.Print(path("a")), dir.Print(path("b"))
	for said, want := range map[string]string{
		"":                          "",
		a + "\x00" + b + "\x00":     "a b",
		a + "\x00" + b:              "unexpected EOF",
		"/etc/passwd\x00":           "/etc/passwd",
		strings.Repeat("x", 10_000): "buffer full",
	} {
		state := sayer(t, func(c net.Conn) {
			_, _ = io.WriteString(c, said)
			_ = c.Close()
		})
		roots, err := DaemonRoots(t.Context(), state, dir)
		if err != nil {
			if want == "" || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), state) {
				t.Errorf("%.40q: %v", said, err)
			}
			continue
		}
		got := map[string]bool{}
		for p := range roots {
			got[p.Name()] = true
		}
		if left(got) != want {
			t.Errorf("%.40q: %v", said, roots)
		}
	}
}

// Nothing may be collected when nobody says what is in use.
func TestWithoutItsRootsDaemonNothingIsCollected(t *testing.T) {
	p := Parts{Dir: dir, StateDir: testenv.Scratch(t), RootsDaemon: true}
	if _, err := p.lastingRoots(t.Context(), false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody there: %v", err)
	}
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	p.StateDir = sayer(t, func(net.Conn) { cancel(stop) }) // and says nothing
	if _, err := p.lastingRoots(ctx, false); !errors.Is(err, stop) {
		t.Errorf("a silent one: %v", err)
	}
}
