package main

import (
	"path/filepath"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// For stock clients we are the other side of ssh. Stock Nix itself does without ssh
// for localhost.
func TestStockNixReachesStrataBySSH(t *testing.T) {
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		const program = "/opt/strata/nix-daemon"
		nix = nix.WithBind(testenv.Strata(t), program)
		remote := "ssh-ng://localhost?remote-program=" + program + "&remote-store=local%3Froot%3D" + filepath.Join(nix.Dir, "remote")
		path := nix.Run(t, "nix-store", "--add", nix.WriteFile(t, "hello", "hello\n"))
		nix.Run(t, "nix", "copy", "--no-check-sigs", "--to", remote, path)
		if got := nix.Run(t, "nix", "path-info", "--store", remote, path); got != path {
			t.Errorf("got %q", got)
		}
		if got := nix.Run(t, "nix", "store", "cat", "--store", remote, path); got != "hello" {
			t.Errorf("got %q", got)
		}
		nix.Run(t, "nix-store", "--delete", path)
		nix.Run(t, "nix", "copy", "--no-check-sigs", "--from", remote, path)
		nix.Run(t, "nix-store", "--verify-path", path)
	})
}

// The same by the older protocol.
func TestStockNixReachesStrataByOldSSH(t *testing.T) {
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		const program = "/opt/strata/nix-store"
		nix = nix.WithBind(testenv.Strata(t), program)
		remote := "ssh://localhost?remote-program=" + program + "&remote-store=local%3Froot%3D" + filepath.Join(nix.Dir, "remote")
		path := nix.Run(t, "nix-store", "--add", nix.WriteFile(t, "hello", "hello\n"))
		nix.Run(t, "nix", "copy", "--no-check-sigs", "--to", remote, path)
		if got := nix.Run(t, "nix", "path-info", "--store", remote, path); got != path {
			t.Errorf("got %q", got)
		}
		nix.Run(t, "nix-store", "--delete", path)
		nix.Run(t, "nix", "copy", "--no-check-sigs", "--from", remote, path)
		nix.Run(t, "nix-store", "--verify-path", path)
	})
}
