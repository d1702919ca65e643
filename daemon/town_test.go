package daemon_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/image"
	"github.com/strata-nix/strata/internal/testenv"
)

// testKey makes a key pair in Nix's text form, always the same for a name.
func testKey(name string) (secret, public string) {
	seed := sha256.Sum256([]byte(name))
	key := ed25519.NewKeyFromSeed(seed[:])
	text := func(b []byte) string { return name + ":" + base64.StdEncoding.EncodeToString(b) }
	return text(key), text(key[ed25519.SeedSize:])
}

// town is several worlds of stock Nix that see each other's stores: clients of a
// daemon read objects from the disk and not through the socket.
type town struct{ dir string }

// newTown makes one in memory, since creating thousands of files again and again
// is not what is tested. The test must be isolated.
func newTown(t *testing.T) *town {
	t.Helper()
	w := &town{testenv.Scratch(t)}
	if err := unix.Mount("tmpfs", w.dir, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(w.dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return w
}

// show mounts a directory read-only at another, until the town ends.
func show(t *testing.T, source, target string) {
	t.Helper()
	if err := os.MkdirAll(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Mount(t.Context(), image.Options{Source: source, Target: target}); err != nil {
		t.Fatal(err)
	}
}

// house is a world of the town with a store of its own, at dir/nix seen from
// everywhere and at /nix from inside.
type house struct {
	nix    *testenv.NixEnv
	dir    string
	socket string // of the daemon, when there is one
}

// house makes one with an empty store.
func (w *town) house(t *testing.T, name, version string) *house {
	t.Helper()
	h := w.emptyHouse(t, name, version)
	h.nix.Run(t, "nix-store", "--init")
	return h
}

// emptyHouse makes one without a store.
func (w *town) emptyHouse(t *testing.T, name, version string) *house {
	t.Helper()
	dir := filepath.Join(w.dir, name)
	if err := os.MkdirAll(dir+"/nix", 0o755); err != nil {
		t.Fatal(err)
	}
	return w.enter(t, dir, version)
}

// enter goes into a house with strata and a release of stock Nix, which believe
// the key corpus-1 alone.
func (w *town) enter(t *testing.T, dir, version string) *house {
	t.Helper()
	h := &house{dir: dir}
	h.nix = testenv.Nix(t, version).WithBind(w.dir, w.dir).WithBind(h.dir+"/nix", "/nix").
		WithBind(testenv.Strata(t), "/opt/strata/strata").With("PATH", "/opt/strata:/usr/bin:/bin")
	_, public := testKey("corpus-1")
	h.nix.Configure(t, "require-sigs = true", "trusted-public-keys = "+public, "fsync-metadata = false")
	return h
}

// sh runs a script in the house, in its directory, with arguments.
func (h *house) sh(t *testing.T, script string, args ...string) string {
	t.Helper()
	return h.nix.Run(t, "bash", append([]string{"-euo", "pipefail", "-c", "cd " + h.dir + "\n" + script, "sh"}, args...)...)
}

func (h *house) store() string { return h.dir + "/nix/store" }

// uri is how everybody in town reaches the daemon.
func (h *house) uri() string { return "unix://" + h.socket + "?root=" + h.dir }

// stock serves the store with its own daemon from now on.
func (h *house) stock(t *testing.T) *house {
	t.Helper()
	h.socket = h.dir + "/stock.sock"
	testenv.Start(t, h.nix.With("NIX_DAEMON_SOCKET_PATH", h.socket).Command(context.Background(), "nix-daemon")).WaitSocket(h.socket)
	return h
}

// strata serves the store with ours from now on.
func (h *house) strata(t *testing.T) *house {
	t.Helper()
	h.socket = h.dir + "/strata.sock"
	testenv.Start(t, h.nix.Command(context.Background(), "strata", "daemon", "--store", "local", "--socket", h.socket)).WaitSocket(h.socket)
	return h
}
