package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/lease"
	"github.com/strata-nix/strata/storepath"
)

const leasedScript = "../../contrib/lower/nix-collect-garbage-leased"

// With the script, the collector of a stock Nix keeps what others have leased.
func TestStockLowerKeepsWhatIsLeased(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{PIDs: true}) {
		return
	}
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		add := func(name string) storepath.Path {
			t.Helper()
			p, err := storepath.DefaultDir.Parse(nix.Run(t, "nix-store", "--add", nix.WriteFile(t, name, "contents of "+name)))
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		there := func(p storepath.Path) bool {
			_, err := os.Lstat(filepath.Join(nix.Store(), p.Base()))
			return err == nil
		}
		used, unused := add("used"), add("unused")
		place, err := lease.OpenDirectory(filepath.Join(nix.Dir, "leases"))
		if err != nil {
			t.Fatal(err)
		}
		script, err := filepath.Abs(leasedScript)
		if err != nil {
			t.Fatal(err)
		}
		const inside = "/opt/strata/"
		// The collector that is run looks whether consumers know of it.
		collector := nix.WriteFile(t, "collector", "#!/bin/sh\ncat "+place.String()+"/collecting/*.json >>"+nix.Dir+"/marks || exit 9\nexec nix-collect-garbage \"$@\"\n")
		if err := os.Chmod(collector, 0o755); err != nil {
			t.Fatal(err)
		}
		on := nix.WithBind(testenv.Strata(t), inside+"strata").WithBind(script, inside+"leased").
			With("STRATA", inside+"strata").With("NIX_COLLECT_GARBAGE", collector)

		if out := on.RunFails(t, "sh", inside+"leased", place.String()); !strings.Contains(out, "is no place for leases") || !there(unused) {
			t.Errorf("without terms: %s", out)
		}
		if err := place.Init(t.Context(), lease.Terms{}); err != nil {
			t.Fatal(err)
		}
		k, err := lease.NewKeeper(place, lease.KeeperOptions{
			Consumer: "me", Holder: "the test", StoreDir: storepath.DefaultDir,
			Uses: func(context.Context) ([]storepath.Path, uint64, error) { return []storepath.Path{used}, 1, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		bad := filepath.Join(place.String(), "leases/bad.lease")
		if err := os.WriteFile(bad, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if out := on.RunFails(t, "sh", inside+"leased", place.String()); !strings.Contains(out, "leases/bad.lease") || !there(unused) {
			t.Errorf("with a lease that cannot be read: %s", out)
		}
		on.With("LEASE_SKIP", "bad other").Run(t, "sh", inside+"leased", place.String(), "--max-freed", "1G")
		if !there(used) || there(unused) {
			t.Errorf("used is there: %t, unused: %t", there(used), there(unused))
		}
		if marks, err := os.ReadFile(filepath.Join(nix.Dir, "marks")); err != nil || strings.Count(string(marks), `"who"`) != 1 {
			t.Errorf("marks while the collector ran: %s, %v", marks, err)
		}
		if left, err := os.ReadDir(filepath.Join(place.String(), "collecting")); err != nil || len(left) > 0 {
			t.Errorf("marks that are left: %v, %v", left, err)
		}
		if err := os.Remove(bad); err != nil {
			t.Fatal(err)
		}
		if err := place.Drop(t.Context(), "me"); err != nil {
			t.Fatal(err)
		}
		on.Run(t, "sh", inside+"leased", place.String())
		if there(used) {
			t.Error("it is there although nobody has leased it any more")
		}
		if left, err := filepath.Glob(filepath.Join(nix.Dir, "nix/var/nix/gcroots/.leases*")); err != nil || len(left) > 0 {
			t.Errorf("left are %q", left)
		}
	})
}

// The units are what systemd takes for units.
func TestSystemdUnits(t *testing.T) {
	analyze := testenv.Tool(t, "systemd-analyze")
	units, err := filepath.Glob("../../contrib/systemd/*")
	if err != nil || len(units) < 8 {
		t.Fatalf("%q, %v", units, err)
	}
	strata, dir := testenv.Strata(t), t.TempDir()
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, filepath.Base(unit))
		if err := os.WriteFile(to, []byte(strings.ReplaceAll(string(text), "/usr/bin/strata", strata)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"strata-gc.service", "strata-gc.timer", "strata-gc@.service", "strata-gc@.timer", "strata@.service"} {
		instance := filepath.Join(dir, strings.Replace(name, "@.", "@dev.", 1))
		if instance != filepath.Join(dir, name) {
			if err := os.Symlink(name, instance); err != nil {
				t.Fatal(err)
			}
		}
		out, err := verifyUnit(t, analyze, dir, instance)
		if err != nil || strings.Contains(out, filepath.Base(instance)) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func verifyUnit(t *testing.T, analyze, dir, unit string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", "--recursive-errors=no", unit)
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":", "SYSTEMD_LOG_LEVEL=warning")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
