package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// A mirror shows a binary cache over HTTP in several ways, each below a directory of
// its own: /good/, and others that lie or fail.
type mirror struct {
	dir   string // the cache
	url   string
	pub   string // whom to trust
	paths map[string]string

	mu       sync.Mutex
	requests map[string]int
	hold     chan struct{} // if not nil, NARs stop half-way until it is closed
}

const derivations = `rec {
  make = name: deps: size: derivation {
    inherit name deps size;
    system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin"; outputs = [ "out" "dev" ];
    args = [ "-c" "mkdir $out; echo $deps > $out/deps; seq $size > $out/data; echo $out > $dev" ];
  };
  base = make "base" [ ] 20000;
  lib = make "lib" [ base ] 40000;
  lib2 = make "lib2" [ base.dev ] 1000;
  app = make "app" [ lib lib2 ] 3000;
  other = make "other" [ base ] 100;
  both = make "both" [ app other ] 1;
}`

// newMirror has a stock Nix build derivations and push them.
func newMirror(t *testing.T) *mirror {
	t.Helper()
	nix := testenv.Nix(t, newest)
	nix.WriteFile(t, "x.nix", derivations)
	secret := nix.WriteFile(t, "secret", nix.Run(t, "nix", "key", "generate-secret", "--key-name", "mirror-1"))
	m := &mirror{dir: filepath.Join(nix.Dir, "cache"), requests: make(map[string]int), paths: make(map[string]string)}
	m.pub = nix.Run(t, "bash", "-c", "nix key convert-secret-to-public < "+secret)
	nix.Run(t, "nix-build", "--no-out-link", "-A", "both", "x.nix")
	nix.Run(t, "nix", "copy", "--all", "--no-check-sigs", "--to", "file://"+m.dir+"?compression=zstd&secret-key="+secret)
	for _, name := range []string{"base", "lib", "lib2", "app", "other", "both"} {
		m.paths[name] = nix.Run(t, "nix", "eval", "--raw", "-f", "x.nix", name+".outPath")
	}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	m.url = server.URL
	return m
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	way, file, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	m.mu.Lock()
	m.requests[file]++
	hold := m.hold
	m.mu.Unlock()
	text, err := os.ReadFile(filepath.Join(m.dir, filepath.FromSlash(file)))
	if err != nil {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	isNar, isInfo := strings.HasPrefix(file, "nar/"), strings.HasSuffix(file, ".narinfo")
	replace := func(pattern, with string) { text = regexp.MustCompile(`(?m)`+pattern).ReplaceAll(text, []byte(with)) }
	switch {
	case way == "missing" && isNar:
		http.Error(w, "gone", http.StatusNotFound)
		return
	case way == "broken" && isNar:
		http.Error(w, "sorry", http.StatusInternalServerError)
		return
	case way == "down":
		http.Error(w, "sorry", http.StatusInternalServerError)
		return
	case way == "forbidden":
		http.Error(w, "no", http.StatusForbidden)
		return
	case way == "cut" && isNar:
		w.Header().Set("Content-Length", fmt.Sprint(len(text)))
		text = text[:len(text)/2]
	case way == "flipped" && isNar:
		text[len(text)/2] ^= 1
	case way == "unsigned" && isInfo:
		replace(`^Sig: .*\n`, "")
	case way == "hash" && isInfo:
		replace(`^NarHash: .*$`, "NarHash: sha256:0000000000000000000000000000000000000000000000000000")
	case way == "size" && isInfo:
		replace(`^NarSize: .*$`, "NarSize: 12345")
	case way == "name" && isInfo:
		replace(`^StorePath: .*$`, "StorePath: /nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-else")
	case way == "garbage" && isInfo:
		text = []byte("<html>Log in first</html>\n")
	case way == "elsewhere" && file == "nix-cache-info":
		replace(`^StoreDir: .*$`, "StoreDir: /gnu/store")
	}
	if hold != nil && isNar {
		w.Header().Set("Content-Length", fmt.Sprint(len(text)))
		_, _ = w.Write(text[:len(text)/2])
		_ = http.NewResponseController(w).Flush()
		text = text[len(text)/2:]
		select {
		case <-hold:
		case <-r.Context().Done():
			m.mu.Lock()
			m.requests["gone"]++
			m.mu.Unlock()
			return
		}
	}
	_, _ = w.Write(text) // the client may have gone
}

// asked gives how often files were asked for whose names contain a text, and forgets
// all requests.
func (m *mirror) asked(containing string) (files []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for file, n := range m.requests {
		if strings.Contains(file, containing) {
			files = append(files, fmt.Sprintf("%s %d", file, n))
		}
	}
	clear(m.requests)
	slices.Sort(files)
	return files
}

// stops has NARs stop half-way until the function that it gives is called.
func (m *mirror) stops() (goOn func()) {
	hold := make(chan struct{})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hold = hold
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.hold = nil
		close(hold)
	})
}

// has tells whether a file was asked for.
func (m *mirror) has(containing string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for file := range m.requests {
		if strings.Contains(file, containing) {
			return true
		}
	}
	return false
}

// client is a stock client of a daemon that may substitute from the mirror.
type client struct {
	side
	m      *mirror
	daemon *testenv.Process
	uri    string
}

func (m *mirror) client(t *testing.T, version, who string, config ...string) *client {
	t.Helper()
	nix := testenv.Nix(t, version)
	nix.Configure(t, append([]string{
		"trusted-public-keys = " + m.pub, "trusted-substituters = " + m.url + "/good", "trusted-users = root", "download-attempts = 1", "connect-timeout = 5",
	}, config...)...)
	nix.WriteFile(t, "x.nix", derivations)
	nix.Run(t, "nix-store", "--init")
	c := &client{side: side{nix: nix, who: who}, m: m, uri: "local"}
	c.start(t)
	return c
}

// start runs the daemon.
func (c *client) start(t *testing.T) {
	t.Helper()
	socket := filepath.Join(c.nix.Dir, "socket")
	nix := c.nix.With("NIX_REMOTE", "")
	daemon := nix.StrataCommand(context.Background(), t, "daemon", "--store", c.uri, "--socket", socket)
	if c.who == "stock" {
		daemon = testenv.Nix(t, newest).WithBind(c.nix.Dir+"/nix", "/nix").WithBind(c.nix.Dir, c.nix.Dir).With("HOME", c.nix.Dir+"/home").
			With("NIX_CONF_DIR", filepath.Join(c.nix.Dir, "conf")).With("NIX_DAEMON_SOCKET_PATH", socket).
			Command(context.Background(), "nix-daemon")
	}
	c.daemon = testenv.Start(t, daemon)
	c.daemon.WaitSocket(socket)
	c.nix = nix.WithRemote(socket)
}

const mirrorScript = `exec 2>&1
from() { for w; do echo $M/$w; done | paste -sd ' '; }
build() { w=$1; shift; nix-build --no-out-link $DIR/x.nix --option substituters "$(from $w)" "$@"; }
realise() { w=$1; shift; nix-store --realise --option substituters "$(from $w)" "$@"; }
`

func (c *client) command(t *testing.T, uid int, sh string) *exec.Cmd {
	nix := c.nix
	if uid != 0 {
		nix = nix.WithUser(t, uid)
	}
	nix = nix.With("DIR", c.nix.Dir).With("M", c.m.url)
	for name, path := range c.m.paths { // in full they would be roots
		nix = nix.With(name, filepath.Base(path))
	}
	return nix.Command(t.Context(), "bash", "-c", mirrorScript+sh)
}

// do runs a shell command as a user, and gives what it says and its exit status.
func (c *client) do(t *testing.T, uid int, sh string) (out string, status int) {
	t.Helper()
	text, err := c.command(t, uid, sh).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		t.Error(err)
	}
	out = strings.NewReplacer(c.nix.Dir, "DIR", c.m.url, "MIRROR").Replace(string(text))
	return freed.ReplaceAllString(stale.ReplaceAllString(versions.ReplaceAllString(out, "VERSION"), ""), ""), status
}

// said is what a command says, and how it ends.
type said struct {
	out    string
	status int
}

// lines are sorted: what goes on at once is told in any order.
func (s said) lines() string {
	lines := strings.Split(s.out, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// both runs a command of a user of two daemons at once.
func both(t *testing.T, stock, ours *client, uid int, sh string) (want, got said) {
	t.Helper()
	var all sync.WaitGroup
	all.Go(func() { want.out, want.status = stock.do(t, uid, sh) })
	all.Go(func() { got.out, got.status = ours.do(t, uid, sh) })
	all.Wait()
	return want, got
}

// empty deletes all that is valid, and says what is left in the store directory.
// It does not collect garbage, for which stock Nix reads all of /proc, where some
// process may have a directory whose name it thinks too long.
func (c *client) empty(t *testing.T) (left []string) {
	t.Helper()
	eventually(t, "no client keeps anything alive any more", func() bool {
		_, status := c.do(t, 0, "NIX_REMOTE=local; set -- $(nix path-info --all); test $# = 0 || nix-store --delete --ignore-liveness $*")
		return status == 0
	})
	return c.names(t)
}

// names lists the store directory.
func (c *client) names(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(c.nix.Store())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != ".links" {
			names = append(names, e.Name())
		}
	}
	return names
}
