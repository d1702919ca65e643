package daemon

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

func mustListen(t *testing.T, path string) *Listener {
	t.Helper()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// stale leaves a socket file behind that nobody listens on.
func stale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

// only fails unless dir holds nothing but the named entries.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("%s holds %q, want %q", dir, got, names)
	}
}

func TestListenLetsEverybodyConnectFromTheStart(t *testing.T) {
	dir := filepath.Join(testenv.Scratch(t), "a", "b")
	l := mustListen(t, filepath.Join(dir, "socket"))
	fi, err := os.Lstat(filepath.Join(dir, "socket"))
	if err != nil || fi.Mode() != fs.ModeSocket|0o666 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("directory: %v, %v", fi.Mode(), err)
	}
	c, err := net.Dial("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	only(t, dir, "socket")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	only(t, dir)
	if err := l.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

func TestListenReplacesAStaleSocket(t *testing.T) {
	dir := testenv.Scratch(t)
	path := filepath.Join(dir, "socket")
	stale(t, path)
	l := mustListen(t, path)
	if l.Replaced {
		t.Error("a stale socket was taken for a live one")
	}
	only(t, dir, "socket")
}

func TestListenTakesOverAndIsNotRemovedByItsPredecessor(t *testing.T) {
	dir := testenv.Scratch(t)
	path := filepath.Join(dir, "socket")
	first := mustListen(t, path)
	second := mustListen(t, path)
	if !second.Replaced {
		t.Error("nobody noticed that somebody was listening")
	}
	first.Close()
	only(t, dir, "socket")
	second.Close()
	only(t, dir)
}

func TestListenLeavesOtherFilesAlone(t *testing.T) {
	dir := testenv.Scratch(t)
	path := filepath.Join(dir, "precious")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("precious", link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, link, dir} {
		if l, err := Listen(p); err == nil || !strings.Contains(err.Error(), p) {
			t.Errorf("Listen(%q) = %v, %v", p, l, err)
		}
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "data" {
		t.Errorf("%q, %v", data, err)
	}
	only(t, dir, "link", "precious")
}

func TestListenWhereThePathIsTooLongForASocket(t *testing.T) {
	dir := filepath.Join(testenv.Scratch(t), strings.Repeat("d", 100), strings.Repeat("e", 100))
	l := mustListen(t, filepath.Join(dir, "socket"))
	t.Chdir(dir)
	c, err := net.Dial("unix", "socket")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	next := mustListen(t, filepath.Join(dir, "socket"))
	if !next.Replaced {
		t.Error("nobody noticed that somebody was listening")
	}
	l.Close()
	next.Close()
	only(t, dir)
}

func TestListenCleansUpAfterItsOwnCrash(t *testing.T) {
	dir := testenv.Scratch(t)
	stale(t, filepath.Join(dir, ".socket."+pid()))
	mustListen(t, filepath.Join(dir, "socket"))
	only(t, dir, "socket")
}
