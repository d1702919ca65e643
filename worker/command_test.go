package worker

import (
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
)

func shell(t *testing.T, script string) Dialer {
	sh := testenv.Tool(t, "sh")
	return DialCommand(func() (*exec.Cmd, error) { return exec.Command(sh, "-c", script), nil })
}

func TestCommandThatEndsTellsWhy(t *testing.T) {
	_, err := NewClient(t.Context(), shell(t, "echo no route to host >&2; exit 255"), ClientOptions{URI: "ssh-ng://host"})
	var ended *CommandError
	if !errors.As(err, &ended) || !errors.Is(err, ErrDisconnected) {
		t.Fatalf("%v", err)
	}
	for _, words := range []string{"ssh-ng://host", "no route to host", "exit status 255"} {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("no %q in %v", words, err)
		}
	}
	if _, err := NewClient(t.Context(), DialCommand(func() (*exec.Cmd, error) { return exec.Command("/nonexistent"), nil }), ClientOptions{}); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
	if _, err := NewClient(t.Context(), shell(t, "echo this is no daemon"), ClientOptions{}); err == nil {
		t.Error("no error about another protocol")
	}
}

func TestCommandSeesTheEndOfItsInput(t *testing.T) {
	nc, err := shell(t, "cat >&2")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := nc.(*commandConn)
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Error(err)
	}
	if hungUp(c) {
		t.Error("it has not hung up")
	}
	if err := c.Close(); err != nil || c.err != nil || c.said.String() != "hello" {
		t.Errorf("%v, ended with %v, said %q", err, c.err, &c.said)
	}
}

func TestCommandThatDoesNotEndIsKilled(t *testing.T) {
	t.Parallel() // it takes its time
	nc, err := shell(t, "trap '' HUP TERM; exec sleep 1000")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := nc.(*commandConn)
	_ = c.Close()
	var exit *exec.ExitError
	if !errors.As(c.err, &exit) || exit.Success() {
		t.Errorf("it ended with %v", c.err)
	}
}

func TestOnlyTheLastOfALongStoryIsKept(t *testing.T) {
	var s saidLast
	for range 100 {
		_, _ = s.Write([]byte(strings.Repeat("x", 1000) + "\n"))
	}
	_, _ = s.Write([]byte("the end\n"))
	if got := s.String(); len(got) > maxLastWords || !strings.HasSuffix(got, "the end") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

// The daemon of each release of stock Nix serves a connection on its standard
// input and output, as it does behind ssh.
func TestStockDaemonOnStandardInput(t *testing.T) {
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		path := nix.Run(t, "nix-store", "--add", nix.WriteFile(t, "hello", "hello\n"))
		c, err := NewClient(t.Context(), DialCommand(func() (*exec.Cmd, error) {
			return nix.Command(t.Context(), "nix-daemon", "--stdio"), nil
		}), ClientOptions{URI: "ssh-ng://stock"})
		if err != nil {
			t.Fatal(err)
		}
		p, err := c.Dir().Parse(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := store.PathInfoOf(t.Context(), c, p)
		if err != nil {
			t.Fatal(err)
		}
		r, err := store.OpenNar(t.Context(), c, p)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); err != nil || uint64(n) != info.NarSize {
			t.Errorf("%d bytes of %d, %v", n, info.NarSize, err)
		}
		_ = r.Close()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
