package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strata-nix/strata/internal/testenv"
)

// workshop is a world in which stock clients have things built, by our daemon or
// by a stock one. Builders run without sandbox.
type workshop struct {
	nix    *testenv.NixEnv
	daemon *testenv.Process
}

const blueprints = `
with builtins;
let
  make = name: script: attrs: derivation ({
    inherit name; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin"; args = [ "-c" script ];
  } // attrs);
  fixed = name: hash: make name "printf contents > $out" { outputHashAlgo = "sha256"; outputHash = hash; };
  ca = name: script: attrs: make name script ({ __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; } // attrs);
in rec {
  ok = make "ok" "echo ok; mkdir $out $dev; echo $out > $dev/ref" { outputs = [ "out" "dev" ]; };
  user = make "user" "cp -r $ok $out" { inherit ok; };
  bad = make "bad" "echo one; echo two >&2; exit 3" { };
  killed = make "killed" "kill -9 $$" { };
  bad2 = make "bad2" "echo no; exit 1" { };
  top = make "top" "echo > $out" { inherit bad ok; };
  both = make "both" "echo > $out" { inherit bad bad2 ok; };
  good = fixed "good" "d1b2a59fbea7e20077af9f91b27e95e865061b270be03ff539ab3b73587882e8";
  wrong = fixed "wrong" "0000000000000000000000000000000000000000000000000000000000000000";
  needsWrong = make "needs-wrong" "echo > $out" { inherit wrong; };
  slow = make "slow" "echo begin; sleep 100" { };
  loud = make "loud" "yes | head -c 100000; echo > $out" { };
  random = make "random" "cat /proc/sys/kernel/random/uuid > $out" { };
  none = make "none" "true" { };
  noBuilder = derivation { name = "no-builder"; system = "x86_64-linux"; builder = "/no/such"; };
  other = derivation { name = "other"; system = "riscv64-linux"; builder = "/bin/sh"; };
  feature = make "feature" "echo > $out" { requiredSystemFeatures = [ "magic" ]; };
  forbidden = make "forbidden" "echo $ok > $out" { inherit ok; allowedReferences = [ ]; };
  early = ca "early" "echo the same > $out" { };
  early2 = ca "early" "echo the same > $out; : changed" { };
  late = ca "late" "cat $early > $out; echo built >> $DIR/late" { inherit early; DIR = getEnv "DIR"; };
  late2 = ca "late" "cat $early > $out; echo built >> $DIR/late" { early = early2; DIR = getEnv "DIR"; };
  once = make "once" "echo built >> $DIR/once; echo waiting; while [ ! -e $DIR/go ]; do sleep 0.1; done; echo > $out" { DIR = getEnv "DIR"; };
  inner = derivation { name = "inner"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo inner > $out" ]; };
  outer = ca "inner.drv" "cp $drv $out" { outputHashMode = "text"; drv = unsafeDiscardOutputDependency inner.drvPath; };
}`

func newWorkshop(t *testing.T, stock bool, config ...string) *workshop {
	t.Helper()
	return workshopIn(t, testenv.Nix(t, newest), stock, config...)
}

func workshopIn(t *testing.T, nix *testenv.NixEnv, stock bool, config ...string) *workshop {
	t.Helper()
	nix = nix.With("DIR", nix.Dir)
	nix.Configure(t, append([]string{"log-lines = 5", "max-jobs = 1", "fsync-metadata = false"}, config...)...)
	nix.WriteFile(t, "x.nix", blueprints)
	nix.Run(t, "nix-store", "--init")
	w := &workshop{}
	socket := filepath.Join(nix.Dir, "socket")
	cmd := nix.StrataCommand(context.Background(), t, "daemon", "--store", "local", "--socket", socket)
	if stock {
		cmd = nix.With("NIX_DAEMON_SOCKET_PATH", socket).Command(context.Background(), "nix-daemon")
	}
	w.daemon = testenv.Start(t, cmd)
	w.daemon.WaitSocket(socket)
	w.nix = nix.WithRemote(socket)
	return w
}

// sh gives what a script prints, and its status.
func (w *workshop) sh(t *testing.T, script string) (out string, status int) {
	t.Helper()
	cmd := w.command(t, script)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return b.String(), exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.String(), 0
}

func (w *workshop) command(t *testing.T, script string) *exec.Cmd {
	return w.nix.Command(t.Context(), "bash", "-uc", `
		build() { a=$1; shift; nix-build --no-out-link $DIR/x.nix -A $a "$@"; }
		new() { a=$1; shift; nix build --no-link --impure -f $DIR/x.nix $a "$@"; }
		drv() { nix-instantiate $DIR/x.nix -A $1 2>/dev/null | sed 's/!.*//'; }
		`+script)
}

// Lines that say the same in other words, or in an order of their own.
var (
	scratchNames = regexp.MustCompile(`/[^ '"]*/(strata-test|testenv|Test)[^ '"]*`)
	orderless    = regexp.MustCompile(`(?m)^(warning: you did not specify|warning: Ignoring dynamic|warning: SQLite|accepted connection|copying|this derivation|these \d|  /nix/store|building '|resolved derivation|don't know how).*\n`)
)

// told is what of an output must be the same.
func (w *workshop) told(out string) []string {
	out = strings.ReplaceAll(out, w.nix.Dir, "DIR")
	out = scratchNames.ReplaceAllString(orderless.ReplaceAllString(out, ""), "SCRATCH")
	return strings.Split(strings.TrimSpace(out), "\n")
}

// Stock clients learn the same of builds from us as from a stock daemon: the exit
// status, the errors, what builders say, and the paths.
func TestBuildsForStockClients(t *testing.T) {
	const features = "extra-experimental-features = ca-derivations dynamic-derivations"
	stock, ours := newWorkshop(t, true, features), newWorkshop(t, false, features)
	for _, script := range []string{
		`build ok -A ok.dev`,
		`build user; nix-store -q --references $(build user)`,
		`nix log $(drv ok)`,
		`build bad`,
		`build killed`,
		// Of two that fail, the first that did ends it all, and may be either.
		`build top`,
		`build both --keep-going`,
		`new top`,
		`new both bad2 ok --keep-going`,
		`new bad bad2 --keep-going`,
		`build good`,
		`build wrong`,
		`build needsWrong`,
		`new needsWrong`,
		`build slow --timeout 1 2>&1 | grep -o 'timed out after 1 seconds'; exit $PIPESTATUS`,
		`build slow --max-silent-time 1 2>&1 | grep -o 'timed out after 1 seconds'; exit $PIPESTATUS`,
		`build loud --option max-build-log-size 1000 2>&1 | grep -v '^y'`,
		`build random && build random --check; echo $?`,
		`build random --check -K 2>&1 | grep -c keeping`,
		`build ok --check`,
		`build none`,
		`build noBuilder`,
		`build other`,
		`build feature`,
		`build forbidden`,
		`build ok --repair`,
		`build ok -j0; nix-store --delete $(build user) >/dev/null 2>&1; build user -j0`,
		`nix-store --realise /nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-nobody`,
		`nix-store --realise /nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-nobody.drv`,
		`nix-store --realise $(drv ok)!doc`,
		`nix-store --realise --dry-run $(drv both)`,
		`nix-store -q --outputs $(drv early) $(drv ok)`,
		`build late; build late2; wc -l < $DIR/late`,
		`nix-store -q --outputs $(drv late2)`,
		`nix path-info --json $(build late) | tr , '\n' | grep -E 'narHash|"ca"|references'`,
		`nix build --no-link --print-out-paths "$(drv outer)^out^out"`,
		`build early --check; new early --rebuild`,
	} {
		want, wantStatus := stock.sh(t, script)
		got, status := ours.sh(t, script)
		const killed = "signal 9 (Killed)"
		if strings.Contains(want, killed) && !strings.Contains(got, killed) {
			t.Logf("%s\nis not compared: stock Nix killed a builder a moment before it ended, as it does at times", script)
			continue
		}
		told, wantTold := ours.told(got), stock.told(want)
		if strings.Contains(script, "--keep-going") { // of two that are ready at once either may be the first
			slices.Sort(told)
			slices.Sort(wantTold)
		}
		if status != wantStatus || !slices.Equal(told, wantTold) {
			t.Errorf("%s: stock %d:\n%s\nours %d:\n%s", script, wantStatus, strings.Join(stock.told(want), "\n"), status, strings.Join(ours.told(got), "\n"))
		}
	}
}

// tells waits until a client has shown a text.
func tells(t *testing.T, p *testenv.Process, text string) {
	t.Helper()
	for !strings.Contains(p.Output(), text) {
		select {
		case <-p.Done():
			t.Fatalf("ended: %s", p.Output())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Two clients want the same, one of them goes, and then both.
func TestClientsShareBuilds(t *testing.T) {
	w := newWorkshop(t, false)
	start := func() *testenv.Process {
		return testenv.Start(t, w.command(t, "exec nix-build --no-out-link $DIR/x.nix -A once"))
	}
	a, b := start(), start()
	tells(t, a, "once.drv'...")
	tells(t, b, "once.drv'...")
	if err := a.Stop(); err == nil {
		t.Error("a client that was stopped succeeded")
	}
	w.nix.WriteFile(t, "go", "")
	<-b.Done()
	if err := b.Stop(); err != nil {
		t.Errorf("%v\n%s", err, b.Output())
	}
	if text, _ := os.ReadFile(filepath.Join(w.nix.Dir, "once")); string(text) != "built\n" {
		t.Errorf("it was built %d times", strings.Count(string(text), "built"))
	}
}

// Nothing of a builder is left when its last client has gone.
func TestBuildersDieWithTheirClients(t *testing.T) {
	w := newWorkshop(t, false)
	client := testenv.Start(t, w.command(t, "exec nix-build --no-out-link $DIR/x.nix -A once"))
	tells(t, client, "waiting")
	if err := client.Stop(); err == nil {
		t.Error("a client that was stopped succeeded")
	}
	// The lock is free and nothing lies about, once the build is no more.
	w.nix.WriteFile(t, "go", "")
	out, status := w.sh(t, "build once 2>/dev/null; ls /nix/store | grep -c lock; ls /nix/var/nix/builds")
	if status != 0 || !strings.Contains(out, "-once\n0\n") {
		t.Errorf("%d: %s", status, out)
	}
}

// A stock Nix sends us what it does not build itself.
func TestBuilderOfAStockNix(t *testing.T) {
	w := newWorkshop(t, false, "extra-experimental-features = ca-derivations")
	socket := filepath.Join(w.nix.Dir, "socket")
	here := testenv.Nix(t, newest).WithBind(w.nix.Dir, w.nix.Dir).With("DIR", w.nix.Dir)
	here.Configure(t, "extra-experimental-features = ca-derivations", "builders = unix://"+socket+"?root="+w.nix.Dir+" x86_64-linux - 2 1 ca-derivations", "builders-use-substitutes = false")
	for _, name := range []string{"user", "late"} {
		out := here.Run(t, "nix-build", "--no-out-link", "-j0", w.nix.Dir+"/x.nix", "-A", name)
		there, status := w.sh(t, "nix-store -q --hash "+out)
		if status != 0 || strings.TrimSpace(there) != here.Run(t, "nix-store", "-q", "--hash", out) {
			t.Errorf("%s: %d, %s", out, status, there)
		}
	}
	if said := here.RunFails(t, "nix-build", "--no-out-link", "-j0", w.nix.Dir+"/x.nix", "-A", "bad"); !strings.Contains(said, "builder failed with exit code 3") {
		t.Error(said)
	}
}
