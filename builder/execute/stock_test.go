package execute_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/storepath"
)

// look is what builders look at, in a shell. The order of variables and of
// entries of directories is not compared, nor what is different each time.
const look = `
env | sort
for f in .attr*; do echo "== $f"; cat $f; done
for f in graph*; do [ ! -e $f ] || cat $f; done
echo "== who"; id; umask; hostname; uname -smo; pwd; ulimit -c; ulimit -n
echo "== files"; ls -a / | sort; ls -a /etc | sort; ls -a /dev | sort; ls $NIX_STORE | sort
cat /etc/passwd /etc/group /etc/hosts
stat -c '%n %a' /etc /tmp /build /dev /dev/shm $NIX_STORE /etc/passwd
echo "== process"; grep -E '^(Uid|Gid|Groups|Cap(Inh|Prm|Eff|Amb)|NoNewPrivs|Seccomp|PPid|Sig(Blk|Ign)|NSpgid|NSsid)' /proc/self/status
ls /proc/self/fd | sort
for fd in 0 1 2; do [ -t $fd ] && echo terminal || echo other; done
ls -l /proc/self/fd/0 | sed 's/.*-> //'
ip -o link 2>/dev/null | sed 's/ mtu.*//; s/^.*: lo: //' | grep -c UP
touch a; chmod u+s a 2>/dev/null || echo no setuid
`

// Builders find the same, whoever runs them.
func TestBuildersFindWhatStockNixGives(t *testing.T) {
	w := boxed(t)
	nix := testenv.Nix(t, "2.34").WithBind(busybox, "/busybox")
	nix.Configure(t, "sandbox = true", "sandbox-fallback = false", "sandbox-paths = /bin/sh=/busybox", "cores = 3", "system-features =")
	lib := nix.WriteFile(t, "lib", "a library\n")
	w = newWorld(t, local.Options{Root: nix.Dir}, w.opts)
	w.opts.Cores = 3
	for name, attrs := range map[string]string{
		"plain":      `a = "x"; b = 7; c = true; d = [ "p" "q" ]; HOME = "/me"; TMPDIR = "/mine"; long = "a long\ntext"; passAsFile = [ "long" ];`,
		"graph":      `exportReferencesGraph = [ "graph" lib ]; needs = "${lib}";`,
		"structured": `__structuredAttrs = true; a = "it's"; b = 7; c = true; d = [ "p" 1 ]; e.x = "y"; f = null; g = 1.5; h = [ { } ]; exportReferencesGraph.graph = [ lib ];`,
	} {
		t.Run(name, func(t *testing.T) {
			expr := nix.WriteFile(t, name+".nix", `let lib = builtins.path { path = `+lib+`; name = "lib"; }; in derivation {
				name = "x"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" (builtins.readFile ./look) "sh" ]; PATH = "/bin"; `+attrs+` }`)
			nix.WriteFile(t, "look", `[ -n "$out" ] || to=$(sed 's/.*"outputs":{"out":"\([^"]*\)".*/\1/' .attrs.json); { `+look+` } > ${out:-$to} 2>&1`)
			drvPath, _, _ := strings.Cut(nix.Run(t, "nix-instantiate", expr), "!")
			out := nix.Run(t, "nix-store", "--realise", drvPath)
			read := func() string {
				text, err := os.ReadFile(filepath.Join(nix.Store(), filepath.Base(out)))
				if err != nil {
					t.Fatal(err)
				}
				return string(text)
			}
			want := read()
			nix.Run(t, "nix-store", "--delete", out)
			p, err := storepath.ParseBase(filepath.Base(drvPath))
			if err != nil {
				t.Fatal(err)
			}
			d, err := w.Derivation(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			j := w.jobOf(t, d)
			if j.DrvPath != p {
				t.Fatalf("the derivation became %s", j.DrvPath.Base())
			}
			r, err := execute.New(w.backing, w.opts).Build(t.Context(), j)
			if err != nil || r.Outputs["out"] == nil {
				t.Fatalf("%+v, %v", r, err)
			}
			if diff := cmp.Diff(linesOf(want), linesOf(read())); diff != "" {
				t.Errorf("stock - and ours +:\n%s", diff)
			}
		})
	}
}

// inherited are ignored signals without a name, 32 and up: those that the test was
// started with reach the builders of stock Nix, and not ours.
var inherited = regexp.MustCompile(`(SigIgn:\t)[0-9a-f]{9}`)

func linesOf(found string) []string {
	return strings.Split(inherited.ReplaceAllString(found, "${1}000000000"), "\n")
}
