package overlay_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// collectVar and collectAtVar are set for the child that is killed: the directory of
// its world, and at which mark.
const (
	collectVar   = "STRATA_TEST_COLLECT"
	collectAtVar = "STRATA_TEST_COLLECT_AT"
)

func collectAndDie(t *testing.T, dir string) {
	t.Helper()
	w := &world{dir: dir, lowers: []string{filepath.Join(dir, "lower0")}}
	s, err := overlay.Open(context.Background(), w.options(), w.openLowers(t))
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

// TestKilledCollection kills a collection at each of its marks in turn. Whatever it
// leaves, no lower object stays hidden, and the next collection ends what it began.
func TestKilledCollection(t *testing.T) {
	if dir := os.Getenv(collectVar); dir != "" {
		collectAndDie(t, dir)
		return
	}
	testenv.Long(t)
	if !isolated(t) {
		return
	}
	chain := storetest.Chain(t, storepath.DefaultDir, 3)
	tree := storetest.Tree(t, storepath.DefaultDir, "tree", map[string]string{"bin/x": "x", "share/y": "y"})
	own := storetest.Tree(t, storepath.DefaultDir, "own", map[string]string{"z": "z"})
	marks := map[string]bool{}
	nix := stockLayered(t)
	for n, done := 0, false; !done; n++ {
		// A world of its own for each, whose mount ends with it.
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			w := newWorld(t, 1, func(_ int, s *local.Store) { addTo(t, s, chain[0]) })
			s := w.open(t)
			addTo(t, s, chain...)
			addTo(t, s, tree, own)
			if _, err := s.AddPermRoot(t.Context(), chain[1].Path(), filepath.Join(w.dir, "root")); err != nil {
				t.Fatal(err)
			}
			l := w.lower(t, w.lowers[0], false)
			addTo(t, l, tree) // which the upper has already
			_ = l.Close()
			_ = s.Close()

			cmd := exec.Command("/proc/self/exe", "-test.run=^TestKilledCollection$")
			cmd.Env = append(os.Environ(), collectVar+"="+w.dir, collectAtVar+"="+strconv.Itoa(n))
			out, err := cmd.CombinedOutput()
			if done = err == nil; !done && cmd.ProcessState.String() != "signal: killed" {
				t.Fatalf("%s\n%s", cmd.ProcessState, out)
			}
			where := strings.TrimSpace(string(out))
			marks[where] = true

			s = w.open(t)
			if b, err := os.ReadFile(filepath.Join(w.merged(), tree.Path().Base(), "share/y")); err != nil || string(b) != "y" {
				t.Errorf("%s: what a lower has reads %q, %v", where, b, err)
			}
			for p, err := range s.AllPaths(t.Context()) {
				if err == nil {
					err = s.NarFromPath(t.Context(), p, io.Discard)
				}
				if err != nil {
					t.Errorf("%s: what is valid cannot be read: %v", where, err)
				}
			}
			w.stockAgrees(t, nix, s)
			if _, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); err != nil {
				t.Errorf("%s: %v", where, err)
			}
			if got, want := rows(t, s), []string{"chain-0", "chain-1"}; !slices.Equal(got, want) {
				t.Errorf("%s: rows %q", where, got)
			}
			if got, want := objects(t, w.upper()), []string{chain[1].Path().Base()}; !slices.Equal(got, want) {
				t.Errorf("%s: the upper layer has %q", where, got)
			}
			if damaged, err := s.Verify(t.Context(), store.VerifyOptions{CheckContents: true}); err != nil || damaged {
				t.Errorf("%s: %v, %v", where, damaged, err)
			}
			if got := objects(t, filepath.Join(w.lowers[0], "nix/store")); len(got) != 2 {
				t.Errorf("%s: the lower has %q", where, got)
			}
		})
		if t.Failed() || n > 100 {
			return
		}
	}
	if len(marks) < 7 {
		t.Errorf("only %d marks were met: %v", len(marks), marks)
	}
}
