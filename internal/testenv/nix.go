package testenv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stockConf is the nix.conf that an environment begins with: no build users
// and no sandbox, which need more than a test has, and nothing from the network.
const stockConf = `build-users-group =
sandbox = false
substituters =
experimental-features = nix-command flakes
`

// NixEnv is a private world with stock Nix in it. Each command runs in a mount
// namespace of its own whose root is a read-only Debian system; as root, or in
// a user namespace that makes the test's user root.
//
// The scratch directory Dir is seen under the same path inside and outside, so
// sockets and files in it connect the two worlds. Inside, /nix is Dir/nix: what
// stock Nix knows as /nix/store and /nix/var/nix are the directories that a
// store with root=Dir has outside. Everything else that is written to, /tmp
// among it, vanishes with the command.
//
// The methods that begin with With return a changed copy. Commands may run
// concurrently.
type NixEnv struct {
	Version string // as asked for, such as "2.34"
	Dir     string // the scratch directory, absolute and without symlinks

	tree  string
	binds []bind
	vars  map[string]string
	uid   int
}

// Nix makes an environment with stock Nix of one of NixVersions, or skips the
// test when the machine cannot have it. See Tree for what that takes. As an
// ordinary user it works too, provided that root has filled the cache once and
// STRATA_TEST_CACHE names it.
func Nix(t testing.TB, version string) *NixEnv {
	t.Helper()
	if os.Geteuid() != 0 {
		UserNS(t)
	}
	tree, err := Tree(t.Context(), version, false, io.Discard)
	if err != nil {
		Skipf(t, "needs stock Nix %s: %v", version, err)
	}
	e, err := NixIn(tree, version, Scratch(t))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// NixIn is Nix without a test: an environment with what Tree made, in a
// directory that is absolute, without symlinks, empty, and removed by the caller.
func NixIn(tree, version, dir string) (*NixEnv, error) {
	e := &NixEnv{Version: version, Dir: dir, tree: tree}
	for _, sub := range []string{"nix", "home", "tmp", "conf"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	conf := stockConf
	if (os.Geteuid() != 0 || !inInitialUserNS()) && version != "2.8" { // which knows nothing of it
		// The groups of somebody in a user namespace cannot be changed.
		conf += "require-drop-supplementary-groups = false\n"
	}
	if err := e.configure(conf); err != nil {
		return nil, err
	}
	e.binds = []bind{{Src: dir, Dst: dir}, {Src: filepath.Join(dir, "nix"), Dst: "/nix"}}
	e.vars = map[string]string{
		"PATH":         "/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME":         filepath.Join(dir, "home"),
		"TMPDIR":       filepath.Join(dir, "tmp"),
		"USER":         "root",
		"LC_ALL":       "C.UTF-8",
		"NIX_CONF_DIR": filepath.Join(dir, "conf"),
	}
	return e, nil
}

// EachNix runs f as a subtest for every version of stock Nix.
func EachNix(t *testing.T, f func(t *testing.T, nix *NixEnv)) {
	for _, v := range NixVersions() {
		t.Run("nix-"+v, func(t *testing.T) { f(t, Nix(t, v)) })
	}
}

// Configure adds lines to the environment's nix.conf.
func (e *NixEnv) Configure(t testing.TB, lines ...string) {
	t.Helper()
	if err := e.configure(strings.Join(lines, "\n") + "\n"); err != nil {
		t.Fatal(err)
	}
}

func (e *NixEnv) configure(text string) error {
	f, err := os.OpenFile(filepath.Join(e.Dir, "conf", "nix.conf"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func (e *NixEnv) clone() *NixEnv {
	c := *e
	c.vars = maps.Clone(e.vars)
	c.binds = slices.Clone(e.binds)
	return &c
}

// With sets an environment variable.
func (e *NixEnv) With(name, value string) *NixEnv {
	c := e.clone()
	c.vars[name] = value
	return c
}

// WithRemote makes the commands clients of the daemon on a socket, which must
// lie in Dir or something bound.
func (e *NixEnv) WithRemote(socket string) *NixEnv {
	return e.With("NIX_REMOTE", "unix://"+socket)
}

// WithBind shows a file or directory of the outside, and what is mounted below
// it when the command starts, at an absolute path inside.
func (e *NixEnv) WithBind(outside, inside string) *NixEnv {
	c := e.clone()
	c.binds = append(c.binds, bind{Src: outside, Dst: inside})
	return c
}

// WithUser runs the commands as another user, with a home of his own. It skips
// the test unless that is run by root, who alone can do this.
func (e *NixEnv) WithUser(t testing.TB, uid int) *NixEnv {
	t.Helper()
	PrivilegedRoot(t)
	home := filepath.Join(e.Dir, "home-"+strconv.Itoa(uid))
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(home, uid, uid); err != nil {
		t.Fatal(err)
	}
	c := e.clone()
	c.uid = uid
	c.vars["HOME"] = home
	c.vars["TMPDIR"] = "/tmp"
	c.vars["USER"] = "user" + strconv.Itoa(uid)
	return c
}

// Command prepares a command to run inside, in the directory Dir. Its
// environment is what the With methods made it, nothing is inherited. When ctx
// ends, it gets SIGTERM, and SIGKILL ten seconds later.
func (e *NixEnv) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	spec, err := json.Marshal(enterSpec{Tree: e.tree, Binds: e.binds, UID: e.uid})
	if err != nil {
		panic("testenv: " + err.Error()) // strings and numbers only
	}
	cmd := exec.CommandContext(ctx, name)
	cmd.Err = nil // the name is looked up inside
	selfExec(cmd, enterName, append([]string{string(spec), name}, args...)...)
	cmd.SysProcAttr = Namespace{}.sysProcAttr()
	cmd.Dir = e.Dir
	for _, k := range slices.Sorted(maps.Keys(e.vars)) {
		cmd.Env = append(cmd.Env, k+"="+e.vars[k])
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// StrataCommand is Command for the strata binary under test.
func (e *NixEnv) StrataCommand(ctx context.Context, t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	const inside = "/opt/strata/strata"
	return e.WithBind(Strata(t), inside).Command(ctx, inside, args...)
}

// Run runs a command inside and returns its standard output without the last
// newline. A failure fails the test and shows what the command said.
func (e *NixEnv) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	stdout, stderr, err := output(e.Command(t.Context(), name, args...))
	if err != nil {
		t.Fatalf("Nix %s: %s %q: %v\n%s%s", e.Version, name, args, err, stdout, stderr)
	}
	return strings.TrimSuffix(stdout, "\n")
}

// RunFails runs a command that must exit with a status other than 0, and
// returns what it wrote to standard error.
func (e *NixEnv) RunFails(t testing.TB, name string, args ...string) string {
	t.Helper()
	stdout, stderr, err := output(e.Command(t.Context(), name, args...))
	if _, exited := err.(*exec.ExitError); !exited {
		t.Fatalf("Nix %s: %s %q: want a failure, got %v\n%s%s", e.Version, name, args, err, stdout, stderr)
	}
	return stderr
}

func output(cmd *exec.Cmd) (stdout, stderr string, err error) {
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

// WriteFile makes a file in the scratch directory and returns its path.
func (e *NixEnv) WriteFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(e.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Store is where /nix/store of the inside lies outside.
func (e *NixEnv) Store() string { return filepath.Join(e.Dir, "nix", "store") }

// Daemon starts the stock nix-daemon on the environment's store and returns its
// socket once it accepts connections. It ends with the test.
func (e *NixEnv) Daemon(t testing.TB, args ...string) (socket string) {
	t.Helper()
	socket = filepath.Join(e.Dir, fmt.Sprintf("stock-%s.sock", e.Version))
	p := Start(t, e.With("NIX_DAEMON_SOCKET_PATH", socket).Command(context.Background(), "nix-daemon", args...))
	p.WaitSocket(socket)
	return socket
}

// WithCorpus puts the objects of the small corpus into the environment's store
// and registers them. Inside they are ordinary valid paths that cannot be
// deleted. Outside, Store has empty directories in their place: they lie where
// Corpus says.
func (e *NixEnv) WithCorpus(t testing.TB) *NixEnv {
	t.Helper()
	dir, registration := Corpus(t)
	objects, err := os.ReadDir(filepath.Join(dir, "nix", "store"))
	if err != nil {
		t.Fatal(err)
	}
	c := e.clone()
	for _, o := range objects {
		inside := "/nix/store/" + o.Name()
		// One by one, since Nix wants to write to the directory they are in.
		c.binds = append(c.binds, bind{Src: filepath.Join(dir, inside), Dst: inside, ReadOnly: true})
	}
	reg, err := os.Open(registration)
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	load := c.Command(t.Context(), "nix-store", "--load-db")
	load.Stdin = reg
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("Nix %s: load the corpus: %v\n%s", e.Version, err, out)
	}
	return c
}
