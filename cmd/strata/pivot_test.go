package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/stack"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/worker"
)

// A client that was connected before a pivot sees the new lower on the same connection, and so does
// a stock client that comes later.
func TestPivotKeepsConnections(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{PIDs: true}) {
		return
	}
	nix := testenv.Nix(t, "2.34")
	r := newRig(t, nix.Dir)
	old := r.run("add", "--store", "local?root="+r.path("old"), r.write("old-only", "old"))
	fresh := r.run("add", "--store", "local?root="+r.path("new"), r.write("fresh", "fresh"))
	r.up("--lower", r.path("old"))
	c, err := worker.NewClient(t.Context(), worker.DialUnix(r.path("upper/state/daemon-socket/socket")), worker.ClientOptions{MaxConnections: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := func() int {
		t.Helper()
		var paths []storepath.Path
		for _, text := range []string{old, fresh} {
			p, err := storepath.DefaultDir.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			paths = append(paths, p)
		}
		valid, err := c.ValidPaths(t.Context(), paths)
		if err != nil || len(valid) != 1 {
			t.Fatalf("%v, %v", valid, err)
		}
		if valid[0] == paths[0] {
			return 0
		}
		return 1
	}
	if ask() != 0 {
		t.Error("the new lower shows before the pivot")
	}
	mine := nix.Run(t, "nix-store", "--add", nix.WriteFile(t, "mine", "the upper's"))
	var res stack.PivotResult
	out, err := r.command("pivot", "--upper", r.path("upper"), "--lower", r.path("new"), "--json").Output()
	if jsonErr := json.Unmarshal(out, &res); err != nil || jsonErr != nil || !res.Done {
		t.Fatalf("%v, %v: %s", err, jsonErr, out)
	}
	if ask() != 1 {
		t.Error("the old lower shows after the pivot")
	}
	nix.Run(t, "nix-store", "--check-validity", mine, fresh)
	nix.RunFails(t, "nix-store", "--check-validity", old)
	if got := nix.Run(t, "cat", mine, fresh); got != "the upper'sfresh" {
		t.Errorf("through the mount: %q", got)
	}
	nix.Run(t, "nix-collect-garbage")
	nix.Run(t, "nix-store", "--check-validity", fresh)
	if _, err := os.Lstat(filepath.Join(r.path("upper/layer"), filepath.Base(fresh))); err == nil {
		t.Error("the lower's object was copied up")
	}
}
