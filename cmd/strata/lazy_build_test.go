package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// A sandboxed build whose inputs are in a lazy lower fetches only what it opens, and everybody is told how
// much that was: a stock client, the log, and who wants JSON.
func TestBuildReadsLazily(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.Bwrap(t)
	nix := testenv.Nix(t, "2.34")
	w := newLazyWorld(t, "bash-5.2.15", "perl-base-5.36", "gzip-1.12")
	file := w.path("strata.toml")
	text := fmt.Sprintf("upper.dir = %q\nroot = %q\nsettings.build-users-group = \"\"\n[[lower]]\nlazy = [%q]\ncache = \"cache\"\nname = \"l\"\n",
		w.path("up"), w.path("root"), w.uri())
	conf := "substituters =\ncompress-build-log = false\n"
	if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.WriteFile(w.path("nix.conf"), []byte(conf), 0o600)); err != nil {
		t.Fatal(err)
	}
	p := testenv.Start(t, w.command("up", "-c", file))
	w.until("the stack is ready", func() bool { return strings.Contains(p.Output(), "ready: ") })
	remote := "unix://" + w.path("root/nix/var/nix/daemon-socket/socket") + "?root=" + w.path("root")

	store := "/nix/store/"
	libs := []string{store + w.object("libc6-2.36") + "/lib/x86_64-linux-gnu", store + w.object("libtinfo6-6.4-4") + "/lib/x86_64-linux-gnu"}
	expr := func(name, script string) string {
		return nix.WriteFile(t, name+".nix", fmt.Sprintf(`derivation {
			name = %q; system = builtins.currentSystem; builder = builtins.storePath %q + "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
			args = [ "--library-path" %q (builtins.storePath %q + "/bin/bash") "-c" %q ];
			unused = map builtins.storePath [ %q %q ]; libs = map builtins.storePath [ %q %q ];
		}`, name, store+w.object("libc6-2.36"), strings.Join(libs, ":"), store+w.object("bash-5.2.15"), script,
			store+w.object("perl-base-5.36"), store+w.object("gzip-1.12"),
			store+w.object("libc6-2.36"), store+w.object("libtinfo6-6.4-4")))
	}
	client := nix.WithBind(w.dir, w.dir).With("NIX_REMOTE", remote)
	build := func(name, script string) (out, stderr string) {
		t.Helper()
		cmd := client.Command(t.Context(), "nix-build", "--no-out-link", expr(name, script))
		var said strings.Builder
		cmd.Stderr = &said
		text, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, said.String(), p.Output())
		}
		return strings.TrimSpace(string(text)), said.String()
	}
	out, said := build("first", "echo built >$out")
	if b, err := os.ReadFile(filepath.Join(w.path("root"), out)); err != nil || string(b) != "built\n" {
		t.Errorf("%q, %v", b, err)
	}
	if !strings.Contains(said, "MiB of inputs were fetched as they were read") {
		t.Errorf("the client was not told: %s", said)
	}
	here := func(name string) bool {
		found, err := filepath.Glob(filepath.Join(w.path("cache"), "*", "objects", "*-"+name+"*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(found) > 0
	}
	w.until("what was opened is here", func() bool { return here("bash-5.2.15") && here("libc6-2.36") })
	if here("perl-base-5.36") || here("gzip-1.12") {
		t.Error("more is here than was opened")
	}

	// What is here need not come again; what another build opens does, and is counted for that one.
	if _, said := build("second", "echo built >$out; echo second"); strings.Contains(said, "inputs were fetched") {
		t.Errorf("nothing had to be fetched: %s", said)
	}
	drv := strings.TrimSpace(client.Run(t, "nix-instantiate", expr("third", "read -r line <"+store+w.object("gzip-1.12")+"/usr/share/doc/gzip/copyright; echo $line >$out")))
	var results []resultJSON
	if err := json.Unmarshal([]byte(w.run("build", "--store", remote, "--json", "--no-link", drv)), &results); err != nil {
		t.Fatal(err)
	}
	info := w.run("info", "--store", remote, "--json", store+w.object("gzip-1.12"))
	var infos map[string]struct{ NarSize uint64 }
	if err := json.Unmarshal([]byte(info), &infos); err != nil {
		t.Fatalf("%v: %s", err, info)
	}
	size := infos[store+w.object("gzip-1.12")].NarSize
	if len(results) != 1 || results[0].Status != "Built" || results[0].Fetched == 0 || results[0].Fetched > size {
		t.Errorf("%+v, of %d bytes", results, size)
	}
	name := strings.TrimPrefix(drv, store)
	log, err := os.ReadFile(filepath.Join(w.path("up/log/drvs"), name[:2], name[2:]))
	if err != nil || !strings.Contains(string(log), "inputs were fetched") {
		t.Errorf("the log is %q, %v", log, err)
	}
	if here("perl-base-5.36") {
		t.Error("perl was fetched")
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}
