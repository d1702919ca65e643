package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// Whoever has builds done and whoever does them: strata and stock Nix, by either
// protocol. For localhost neither needs ssh.
func TestRemoteBuilds(t *testing.T) {
	testenv.Long(t)
	for name, c := range map[string]struct {
		stock  bool // the daemon that has it done
		scheme string
		server string // what is started on the other machine
	}{
		"strata by strata":           {false, "ssh-ng", "/opt/strata/nix-daemon"},
		"strata by strata, older":    {false, "ssh", "/opt/strata/nix-store"},
		"strata by stock":            {false, "ssh-ng", "nix-daemon"},
		"strata by stock, older":     {false, "ssh", "nix-store"},
		"stock Nix by strata":        {true, "ssh-ng", "/opt/strata/nix-daemon"},
		"stock Nix by strata, older": {true, "ssh", "/opt/strata/nix-store"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			remoteBuild(t, c.stock, c.scheme, c.server)
		})
	}
}

func remoteBuild(t *testing.T, stock bool, scheme, server string) {
	nix := testenv.Nix(t, newest)
	strata := testenv.Strata(t)
	nix = nix.WithBind(strata, "/opt/strata/nix-daemon").WithBind(strata, "/opt/strata/nix-store")
	// The other machine is this one with another /nix.
	far := filepath.Join(nix.Dir, "far")
	program := nix.WriteFile(t, "far-"+filepath.Base(server), `#!/bin/sh
unset NIX_REMOTE NIX_DAEMON_SOCKET_PATH
mkdir -p `+far+`/nix
exec unshare -m sh -c 'mount --bind `+far+`/nix /nix && exec "$0" "$@"' `+server+` "$@"
`)
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	w := workshopIn(t, nix, stock, "sandbox = false", "builders = "+scheme+"://localhost?remote-program="+program+" x86_64-linux - 1")
	for _, c := range []struct {
		script string
		status int
		says   []string
	}{
		{"build user -j0", 0, []string{"-ok.drv' on '" + scheme + "://localhost", "-user.drv' on '"}},
		{"cat $(build ok.dev -j0)/ref; test -e " + far + "$(build ok.dev)/ref", 0, []string{"-ok"}},
		{"nix-store -q --references $(build ok.dev)", 0, []string{"-ok"}},
		{"nix-store --read-log $(drv ok)", 0, []string{"ok"}},
		{"build bad -j0", -1, []string{"exit code 3", "two"}},
		{"build random -j1 --check", -1, []string{"not valid"}},
		{"nix-store --verify --check-contents", 0, nil},
	} {
		out, status := w.sh(t, c.script)
		if status != c.status && (c.status >= 0 || status == 0) {
			t.Errorf("%s: status %d\n%s", c.script, status, out)
		}
		for _, s := range c.says {
			if !strings.Contains(out, s) {
				t.Errorf("%s: nothing says %q:\n%s", c.script, s, out)
			}
		}
	}
}
