package unixsocket

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestPathsOfAnyLength(t *testing.T) {
	for _, depth := range []int{1, 2, 20} {
		dir := filepath.Join(t.TempDir(), strings.Repeat("a-directory/", depth))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "socket")
		var op *net.OpError
		if _, err := Dial(t.Context(), path); !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &op) || op.Addr.String() != path {
			t.Errorf("%d bytes: nobody listens: %v", len(path), err)
		}
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(path); !errors.Is(err, syscall.EADDRINUSE) || !errors.As(err, &op) || op.Addr.String() != path {
			t.Errorf("%d bytes: something is there: %v", len(path), err)
		}
		c, err := Dial(t.Context(), path)
		if err != nil {
			t.Errorf("%d bytes: %v", len(path), err)
		} else if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := Dial(t.Context(), path); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%d bytes: nobody listens any more: %v", len(path), err)
		}
		if _, err := Dial(t.Context(), filepath.Join(dir, "gone", "socket")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "gone/socket") {
			t.Errorf("%d bytes: no directory: %v", len(path), err)
		}
		if _, err := Listen(filepath.Join(dir, "gone", "socket")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "gone/socket") {
			t.Errorf("%d bytes: no directory to listen in: %v", len(path), err)
		}
	}
}
