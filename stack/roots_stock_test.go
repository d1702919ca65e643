package stack

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/worker"
)

// stockLower is a stock store with two objects in it.
func stockLower(t *testing.T, nix *testenv.NixEnv) (used, unused storepath.Path) {
	t.Helper()
	add := func(name string) storepath.Path {
		t.Helper()
		p, err := storepath.DefaultDir.Parse(nix.Run(t, "nix-store", "--add", nix.WriteFile(t, name, "contents of "+name)))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	return add("used"), add("unused")
}

// The garbage collector of stock Nix keeps what was registered in a lower of its.
func TestStockNixKeepsWhatIsRegistered(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{PIDs: true}) {
		return
	}
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		used, unused := stockLower(t, nix)
		place := filepath.Join(nix.Dir, stateInRoot, rootsDir)
		if err := os.MkdirAll(place, 0o755); err != nil {
			t.Fatal(err)
		}
		l := links{place: place, consumer: "me", dir: storepath.DefaultDir}
		if err := l.add(t.Context(), []storepath.Path{used}); err != nil {
			t.Fatal(err)
		}
		if err := l.describe("the test"); err != nil {
			t.Fatal(err)
		}
		nix.Run(t, "nix-collect-garbage")
		if !inStore(nix, used) || inStore(nix, unused) {
			t.Errorf("used is there: %t, unused: %t", inStore(nix, used), inStore(nix, unused))
		}
		if err := l.removeOthers(storepath.Set{}); err != nil {
			t.Fatal(err)
		}
		nix.Run(t, "nix-collect-garbage")
		if inStore(nix, used) {
			t.Error("it is there although nobody uses it any more")
		}
	})
}

// A stock daemon of a lower is told of roots that are ours.
func TestStockDaemonIsToldOfRoots(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{PIDs: true}) {
		return
	}
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		used, unused := stockLower(t, nix)
		socket := nix.Daemon(t)
		c, err := worker.NewClient(t.Context(), worker.DialUnix(socket), worker.ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ours := filepath.Join(nix.Dir, "ours")
		if err := os.Mkdir(ours, 0o755); err != nil {
			t.Fatal(err)
		}
		h := &rootsHolder{
			links: links{place: ours, consumer: "base", dir: storepath.DefaultDir},
			valid: func(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
				return c.ValidPaths(ctx, paths)
			},
			fresh: map[storepath.Path]time.Time{}, daemon: &rootsDaemon{c, c},
		}
		if err := h.lean(t.Context(), []storepath.Path{used}); err != nil {
			t.Fatal(err)
		}
		collect := func() {
			t.Helper()
			if _, err := c.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); err != nil {
				t.Fatal(err)
			}
		}
		collect()
		if !inStore(nix, used) || inStore(nix, unused) {
			t.Errorf("used is there: %t, unused: %t", inStore(nix, used), inStore(nix, unused))
		}
		began := time.Now().Add(2 * freshFor) // as if that had been long ago
		if err := h.renew(t.Context(), began, overlay.Leaning{}); err != nil {
			t.Fatal(err)
		}
		// The process of a connection that was closed keeps its temporary roots until it has noticed.
		for end := time.Now().Add(time.Minute); inStore(nix, used); {
			if time.Now().After(end) {
				t.Fatal("it is there although nobody uses it any more")
			}
			collect()
		}
	})
}

func inStore(nix *testenv.NixEnv, p storepath.Path) bool {
	_, err := os.Lstat(filepath.Join(nix.Store(), p.Base()))
	return err == nil
}
