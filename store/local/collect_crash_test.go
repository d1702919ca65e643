package local_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// collectVar and collectAtVar are set for the child that is killed: the directory of
// its store, and at which mark.
const (
	collectVar   = "STRATA_TEST_COLLECT"
	collectAtVar = "STRATA_TEST_COLLECT_AT"
)

func collectAndDie(t *testing.T, root string) {
	t.Helper()
	s, err := local.Open(context.Background(), local.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	at, err := strconv.Atoi(os.Getenv(collectAtVar))
	if err != nil {
		t.Fatal(err)
	}
	crashpoint.KillAt(at, func(name string) { fmt.Fprintln(os.Stderr, "killed at", name) })
	if _, err := s.CollectGarbage(context.Background(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}

// killedCollection is a child that is killed at the n-th mark; done when there are
// fewer.
func killedCollection(t *testing.T, root string, n int) (where string, done bool) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestKilledCollection$")
	cmd.Env = append(os.Environ(), collectVar+"="+root, collectAtVar+"="+strconv.Itoa(n))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return "", true
	}
	if ws := cmd.ProcessState.String(); ws != "signal: killed" {
		t.Fatalf("mark %d: %s\n%s", n, ws, out)
	}
	return strings.TrimSpace(string(out)), false
}

// TestKilledCollection kills a collection at each of its marks in turn. What it leaves
// are valid paths that are whole, and garbage that any Nix collects.
func TestKilledCollection(t *testing.T) {
	if root := os.Getenv(collectVar); root != "" {
		collectAndDie(t, root)
		return
	}
	testenv.Long(t)
	chain := storetest.Chain(t, storepath.DefaultDir, 4)
	dead := []storetest.Object{
		storetest.Tree(t, storepath.DefaultDir, "tree", map[string]string{"bin/x": "x", "share/y": "y"}, chain[1].Path()),
		storetest.File(t, storepath.DefaultDir, "file", "z"),
	}
	marks := map[string]bool{}
	for n := 0; ; n++ {
		nix := testenv.Nix(t, "2.34")
		root := nix.Dir
		s, err := local.Open(t.Context(), local.Options{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		add(t, s, chain...)
		add(t, s, dead...)
		if _, err := s.AddPermRoot(t.Context(), chain[1].Path(), filepath.Join(root, "nix/var/nix/gcroots/kept")); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		where, done := killedCollection(t, root, n)
		marks[where] = true
		if n%2 == 0 && !done {
			// A stock Nix finds nothing wrong, and tidies up. The store's own directory is
			// /nix to it, and the link leads there.
			nix.Run(t, "nix-store", "--verify", "--check-contents")
			nix.Run(t, "nix-store", "--gc")
		}
		s = open(t, local.Options{Root: root})
		if damaged, err := s.Verify(t.Context(), store.VerifyOptions{CheckContents: true}); err != nil || damaged {
			t.Errorf("%s: %v, %v", where, damaged, err)
		}
		if n%2 == 1 {
			if _, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); err != nil {
				t.Errorf("%s: %v", where, err)
			}
		}
		clean(t, s)
		if c := count(t, s); c != 2 {
			t.Errorf("%s: %d paths are left", where, c)
		}
		nix.Run(t, "nix-store", "--verify", "--check-contents")
		if done {
			break
		}
	}
	if len(marks) < 6 {
		t.Errorf("only %d marks were met: %v", len(marks), marks)
	}
}
