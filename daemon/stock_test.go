package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// step is a shell command that a stock client runs against a stock daemon and
// against ours. What it prints and its exit status must be the same.
type step struct {
	name  string
	sh    string
	fails bool   // it must fail, and say the same on stderr
	since string // the first release that has it
}

// Variables that steps have: files f, g, t (a tree), x (an expression), k (a
// secret key), and what earlier steps put in env.
var steps = []step{
	{name: "add", sh: `a=$(nix-store --add $f); echo $a; keep a`},
	{name: "add tree", sh: `b=$(nix-store --add $t); echo $b; keep b`},
	{name: "add fixed", sh: `for h in sha1 sha256 sha512 md5; do nix-store --add-fixed $h $f; nix-store --add-fixed --recursive $h $t; done`},
	{name: "add again", sh: `nix-store --add $f`},
	{name: "instantiate", sh: `drv=$(nix-instantiate $x); echo $drv; keep drv`},
	{name: "eval", sh: `nix eval --impure --raw --expr "(import $x).out.outPath"`},
	{name: "references", sh: `nix-store -q --references $drv $b | sort`},
	{name: "requisites", sh: `nix-store -q --requisites $drv | sort`},
	{name: "referrers", sh: `for p in $(nix-store -qR $drv); do nix-store -q --referrers $p | sort; nix-store -q --referrers-closure $p | sort; done`},
	{name: "deriver", sh: `nix-store -q --deriver $a`},
	{name: "outputs", sh: `nix-store -q --outputs $drv`},
	{name: "binding", sh: `nix-store -q --binding name $drv`},
	{name: "roots", sh: `ln -s $b $DIR/nix/var/nix/gcroots/test; nix-store -q --roots $b; nix-store -q --roots $a`},
	{name: "hash and size", sh: `nix-store -q --hash $a $b $drv; nix-store -q --size $a $b $drv`},
	{name: "tree", sh: `nix-store -q --tree $drv`},
	{name: "graph", sh: `nix-store -q --graph $drv; nix-store -q --graphml $drv`},
	{name: "resolve", sh: `nix-store -q --resolve $b`},
	{name: "dump", sh: `nix-store --dump $b | sha256sum`},
	{name: "restore", sh: `nix-store --dump $b | nix-store --restore $DIR/restored; (cd $DIR/restored; find . | sort; cat share/data | sha256sum)`},
	{name: "export", sh: `nix-store --export $(nix-store -qR $drv) > $DIR/export; sha256sum < $DIR/export`},
	{name: "verify path", sh: `nix-store --verify-path $a $b $drv`},
	{name: "verify", sh: `nix-store --verify --check-contents 2>&1`},
	{name: "check validity", sh: `nix-store --check-validity $a $b; nix-store --check-validity --print-invalid $nobody $a`},
	{name: "check invalid", sh: `nix-store --check-validity $nobody`, fails: true},
	{name: "query invalid", sh: `nix-store -q --references $nobody`, fails: true},
	{name: "hash of invalid", sh: `nix-store -q --hash $nobody`, fails: true},
	{name: "malformed path", sh: `nix-store -q --references /nix/store/short`, fails: true},
	{name: "dump-db", sh: `nix-store --dump-db | sha256sum`},
	{name: "print roots", sh: `nix-store --gc --print-roots | grep -v ^/proc`},
	{name: "print live", sh: `nix-store --gc --print-live 2>/dev/null | sort`},
	{name: "print dead", sh: `nix-store --gc --print-dead 2>/dev/null | sort`},
	{name: "delete alive", sh: `nix-store --delete $b`, fails: true},
	{name: "delete", sh: `nix-store --delete $a 2>&1 | grep -v 'finding\|unused links\|hard linking\|freed'; nix-store --check-validity --print-invalid $a`},
	{name: "delete with referrers", sh: `nix-store --delete $(nix-store -q --references $drv | head -n 1)`, fails: true},
	{name: "import", sh: `nix-store --delete $drv >/dev/null 2>&1; nix-store --import < $DIR/export | sort; nix-store --check-validity $drv`},
	{name: "import garbage", sh: `echo garbage | nix-store --import`, fails: true},
	{name: "register validity", sh: `nix-store --dump-db $b > $DIR/reg; nix-store -q --hash $b; NIX_REMOTE=local nix-store --load-db < $DIR/reg; nix-store -q --hash $b`},
	{name: "register behind the daemon", sh: `NIX_REMOTE=local nix-store --add $g > $DIR/g; nix-store -q --hash $(cat $DIR/g)`},
	{name: "realise what is there", sh: `nix-store --realise $b; nix-store --realise $b --add-root $DIR/link --indirect; readlink $DIR/link`},
	{name: "realise what cannot be had", sh: `nix-store --realise $nobody`, fails: true},

	{name: "path-info", sh: `nix path-info $b $drv; nix path-info -r $drv | sort; nix path-info -rsSh $drv | sort`},
	{name: "path-info json", sh: `nix path-info -r -S --json $drv | sed 's/"registrationTime":[0-9]*/T/g'`},
	{name: "path-info all", sh: `nix path-info --all | sort; nix path-info --all --json | sed 's/"registrationTime":[0-9]*/T/g'`},
	{name: "path-info of invalid", sh: `nix path-info $nobody`, fails: true},
	{name: "copy to a cache", sh: `nix copy --to file://$DIR/cache?compression=none $drv $b; cat $DIR/cache/*.narinfo | grep -v '^Sig' | sort | sha256sum`},
	{name: "copy from a cache", sh: `nix-store --delete $drv >/dev/null 2>&1; nix copy --no-check-sigs --from file://$DIR/cache $drv; nix path-info -r $drv | sort`, since: "2.26"},
	{name: "copy to a store", sh: `nix copy --no-check-sigs --to $DIR/other $drv; nix path-info --store $DIR/other -r $drv | sort`},
	{name: "copy from a store", sh: `nix-store --delete $drv >/dev/null 2>&1; nix copy --no-check-sigs --from $DIR/other $drv; nix-store --verify-path $drv`, since: "2.26"},
	{name: "add-file", sh: `nix store add-file $g; nix store add-path $t`},
	{name: "store add", sh: `nix store add $t; nix store add --mode flat --hash-algo sha1 $f; nix store add --mode text $g`, since: "2.26"},
	{name: "cat and ls", sh: `nix store cat $b/share/data; nix store ls -lR $b; nix store ls -R --json $b; nix store ls $b/bin`},
	{name: "cat of a directory", sh: `nix store cat $b/share`, fails: true},
	{name: "dump-path", sh: `nix store dump-path $b | sha256sum`},
	{name: "path from hash part", sh: `h=${b#/nix/store/}; nix store path-from-hash-part ${h%%-*}`, since: "2.26"},
	{name: "sign", sh: `nix store sign -k $k $b; nix path-info --sigs $b`},
	{name: "copy-sigs", sh: `nix store sign --store file://$DIR/cache -k $k -r $drv; nix store copy-sigs -s file://$DIR/cache -r $drv; nix path-info --sigs -r $drv | sort`},
	{name: "store verify", sh: `nix store verify --no-trust $b`},
	{name: "store info", sh: `nix store ping 2>&1 | grep -v Version; nix store info --json | sed 's/"version":"[^"]*"/V/'`, since: "2.26"},
	{name: "why-depends", sh: `nix why-depends --derivation $drv $(nix-store -q --references $drv | grep dep.drv)`},
	{name: "diff-closures", sh: `nix store diff-closures $b $(nix-store -q --references $drv | grep script)`},
	{name: "prefetch", sh: `nix store prefetch-file --json file://$f`},
	{name: "no log", sh: `nix log $drv`, fails: true},
	{name: "show derivation", sh: `nix derivation show $drv`, since: "2.26"},
	{name: "delete store path", sh: `nix store delete $b`, fails: true},
	{name: "gc", sh: `rm $DIR/nix/var/nix/gcroots/test $DIR/link; nix-store --gc 2>&1 | grep '^deleting' | grep -v '[.]lock' | sort; ls $DIR/nix/store; nix path-info --all`},
	{name: "gc of nothing", sh: `nix-store --gc 2>&1 | grep 'store paths deleted'; nix store gc`},
}

const script = `
set -u
export HOME=$DIR/home
f=$DIR/f g=$DIR/g.txt t=$DIR/tree x=$DIR/x.nix k=$DIR/key nobody=/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-nobody
touch $DIR/vars; . $DIR/vars
keep() { for v; do eval "echo $v=\$$v"; done >> $DIR/vars; }
`

// side is a client with the daemon that it talks to.
type side struct {
	nix *testenv.NixEnv
	who string
}

func newSide(t *testing.T, version, who string) *side {
	t.Helper()
	nix := testenv.Nix(t, version)
	nix.Configure(t, "experimental-features = nix-command flakes", "substituters =", "require-sigs = false")
	nix.WriteFile(t, "f", "hello\n")
	nix.WriteFile(t, "g.txt", "other\n")
	nix.WriteFile(t, "tree/share/data", strings.Repeat("data\n", 10_000))
	nix.WriteFile(t, "tree/bin/run", "#!/bin/sh\necho run\n")
	nix.WriteFile(t, "x.nix", `rec {
  dep = derivation { name = "dep"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ ./f ]; };
  out = derivation { name = "x"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ (builtins.toFile "script" "echo ok") ]; inherit dep; outputs = [ "out" "dev" ]; };
}.out`)
	// A secret key of this test alone: name, then base64 of seed and public key.
	nix.WriteFile(t, "key", "test-1:tLAEn+EeaBUJYqEpTd2yeerr7Ic6+0vWe+aXL/vYUpbPg0ZKNbV0Yl1X7cTyo3wlh9cTwYKhWhpBDHI5cj14bQ==")
	nix.Run(t, "nix-store", "--init")
	s := &side{nix: nix, who: who}
	socket := filepath.Join(nix.Dir, "socket")
	daemon := nix.StrataCommand(context.Background(), t, "daemon", "--store", "local", "--socket", socket)
	if who == "stock" {
		// The release that we are compatible with, on the store of the client's world.
		daemon = testenv.Nix(t, "2.34").WithBind(nix.Dir+"/nix", "/nix").WithBind(nix.Dir, nix.Dir).
			With("NIX_CONF_DIR", filepath.Join(nix.Dir, "conf")).With("NIX_DAEMON_SOCKET_PATH", socket).
			Command(context.Background(), "nix-daemon")
	}
	testenv.Start(t, daemon).WaitSocket(socket)
	s.nix = nix.WithRemote(socket)
	return s
}

var (
	versions = regexp.MustCompile(`2\.\d+\.\d+(\+strata-[0-9.]+)?`)
	freed    = regexp.MustCompile(`, [0-9.]+ [KMG]?i?B freed`)
	// Said when a client's process ended without its own cleaning up, or not.
	stale = regexp.MustCompile(`removing stale temporary roots file .*\n`)
)

// run gives what a step prints, with what differs by nature taken out.
func (s *side) run(t *testing.T, st step) (out string, status int) {
	t.Helper()
	cmd := s.nix.With("DIR", s.nix.Dir).Command(context.Background(), "bash", "-c", script+st.sh)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		status = exit.ExitCode()
	case err != nil:
		t.Fatalf("%s: %v", s.who, err)
	}
	out = stdout.String()
	if st.fails || status != 0 {
		out += "--- stderr\n" + stderr.String()
	}
	out = strings.ReplaceAll(out, s.nix.Dir, "DIR")
	out = versions.ReplaceAllString(out, "VERSION")
	out = stale.ReplaceAllString(out, "")
	return freed.ReplaceAllString(out, ""), status
}

// Stock clients cannot tell our daemon from theirs.
func TestStockClientsSeeNoDifference(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{PIDs: true}) {
		return
	}
	for _, version := range testenv.NixVersions() {
		t.Run(version, func(t *testing.T) {
			stock, ours := newSide(t, version, "stock"), newSide(t, version, "strata")
			for _, st := range steps {
				if later(st.since, version) {
					continue
				}
				want, wantStatus := stock.run(t, st)
				got, status := ours.run(t, st)
				if (wantStatus != 0) != st.fails {
					t.Errorf("%s: stock Nix itself exits with %d: %s", st.name, wantStatus, want)
				}
				if got != want || status != wantStatus {
					t.Errorf("%s: exit status %d, stock %d\n--- strata\n%s\n--- stock\n%s", st.name, status, wantStatus, got, want)
				}
			}
		})
	}
}

// later tells whether a release comes after another; both are "2.<minor>".
func later(since, version string) bool {
	var a, b int
	if since == "" {
		return false
	}
	_, err1 := fmt.Sscanf(since, "2.%d", &a)
	_, err2 := fmt.Sscanf(version, "2.%d", &b)
	if err1 != nil || err2 != nil {
		panic("releases are 2.<minor>")
	}
	return a > b
}
