package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/stack"
)

// rig is a directory with a lower store, and the binary.
type rig struct {
	t    *testing.T
	dir  string
	bin  string
	user *syscall.Credential // who runs commands; nil: the one who runs the test
}

func newRig(t *testing.T, dir string) *rig {
	t.Helper()
	r := &rig{t: t, dir: dir, bin: testenv.Strata(t)}
	t.Setenv(stack.RuntimeEnv, r.path("run"))
	t.Setenv("NIX_CONF_DIR", r.path("no-conf"))
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) write(name, contents string) string {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), []byte(contents), 0o644); err != nil {
		r.t.Fatal(err)
	}
	return r.path(name)
}

func (r *rig) command(args ...string) *exec.Cmd {
	cmd := exec.Command(r.bin, args...)
	cmd.Dir = r.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: r.user}
	return cmd
}

func (r *rig) run(args ...string) string {
	r.t.Helper()
	out, err := r.command(args...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("strata %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *rig) runFails(args ...string) string {
	r.t.Helper()
	out, err := r.command(args...).CombinedOutput()
	if err == nil {
		r.t.Fatalf("strata %q did not fail:\n%s", args, out)
	}
	return string(out)
}

// up starts a stack and returns when it answers.
func (r *rig) up(args ...string) *testenv.Process {
	r.t.Helper()
	p := testenv.Start(r.t, r.command(append([]string{"up", "--upper", r.path("upper"), "--root", r.dir}, args...)...))
	p.WaitSocket(r.path("upper/control"))
	return p
}

func (r *rig) status() *stack.Status {
	r.t.Helper()
	cmd := r.command("status", "--json", "--upper", r.path("upper"))
	out, _ := cmd.Output() // its exit status is about problems
	var all []*stack.Status
	if err := json.Unmarshal(out, &all); err != nil || len(all) != 1 {
		r.t.Fatalf("%v: %s", err, out)
	}
	return all[0]
}

// mounts lists what is mounted below the rig's directory.
func (r *rig) mounts() (targets []string) {
	r.t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], r.dir+"/") {
			targets = append(targets, f[4])
		}
	}
	return targets
}

// Stock clients need not be told of anything, also when root runs them, and
// cannot harm the lowers.
func TestStockNixOnAStack(t *testing.T) {
	for _, version := range testenv.NixVersions() {
		t.Run(version, func(t *testing.T) {
			if testenv.Isolate(t, testenv.Namespace{PIDs: true}) {
				stockNixOnAStack(t, testenv.Nix(t, version))
			}
		})
	}
}

func stockNixOnAStack(t *testing.T, nix *testenv.NixEnv) {
	r := newRig(t, nix.Dir)
	below := r.run("add", "--store", "local?root="+r.path("base"), r.write("below", "a lower's"))
	p := r.up("--lower", r.path("base"))

	if got := nix.Run(t, "cat", below); got != "a lower's" {
		t.Errorf("through the mount: %q", got)
	}
	nix.Run(t, "nix-store", "--check-validity", below)
	added := nix.Run(t, "nix-store", "--add", nix.WriteFile(t, "mine", "the upper's"))
	if _, err := os.Lstat(filepath.Join(r.path("upper/layer"), filepath.Base(added))); err != nil {
		t.Error(err)
	}
	// A profile, where the client itself keeps it, keeps what is in it.
	nix.Run(t, "nix-store", "--realise", "--add-root", "/nix/var/nix/gcroots/mine", "--indirect", added)
	dead := nix.Run(t, "nix-store", "--add", nix.WriteFile(t, "dead", "nobody needs it"))
	nix.Run(t, "nix-collect-garbage")
	nix.Run(t, "nix-store", "--check-validity", below, added)
	if got := nix.Run(t, "cat", below, added); got != "a lower'sthe upper's" {
		t.Errorf("after a collection: %q", got)
	}
	nix.RunFails(t, "nix-store", "--check-validity", dead)
	if _, err := os.Readlink(r.path("upper/state/gcroots/mine")); err != nil {
		t.Errorf("the root is not kept with the upper: %v", err)
	}
	if st := r.status(); len(st.Problems) > 0 || st.Layers[0].Objects.Number != 1 {
		t.Errorf("%+v", st)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if left := r.mounts(); len(left) > 0 {
		t.Errorf("still mounted: %q", left)
	}
	// The upper is a store that stock Nix opens by itself.
	direct := nix.With("NIX_REMOTE", "local?real="+r.path("upper/layer")+"&state="+r.path("upper/state"))
	if got := direct.Run(t, "nix-store", "-q", "--hash", added); !strings.HasPrefix(got, "sha256:") {
		t.Errorf("stock Nix says of the upper: %q", got)
	}
}

// Programs go on through a crash of the daemon, and the next one serves the very
// mount that they run from.
func TestKilledAndUpAgain(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	r := newRig(t, testenv.Scratch(t))
	obj := r.run("add", "--store", "local?root="+r.path("base"), r.write("f", "contents"))
	p := r.up("--lower", r.path("base"))
	before := r.mounts()
	reader, err := os.Open(filepath.Join(r.dir, obj))
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if st := r.status(); st.State != stack.StateDown || len(st.Problems) == 0 {
		t.Errorf("%+v", st)
	}
	p = r.up("--lower", r.path("base"))
	if after := r.mounts(); !slices.Equal(before, after) {
		t.Errorf("mounts %q, then %q", before, after)
	}
	if st := r.status(); st.State != stack.StateUp || len(st.Problems) > 0 {
		t.Errorf("%+v", st)
	}

	// The file is open: the mount cannot go, and that is said.
	if err := p.Stop(); err == nil || !strings.Contains(p.Output(), "process "+strconv.Itoa(os.Getpid())) {
		t.Errorf("%v: %s", err, p.Output())
	}
	if out := r.runFails("down", "--upper", r.path("upper")); !strings.Contains(out, "device or resource busy") {
		t.Errorf("%s", out)
	}
	r.run("down", "--upper", r.path("upper"), "--lazy")
	if left := r.mounts(); len(left) > 0 {
		t.Errorf("still mounted: %q", left)
	}
	if out := r.runFails("up", "--upper", r.path("upper"), "--root", r.dir, "--lower", r.path("base")); !strings.Contains(out, "which was detached, still is used") {
		t.Errorf("%s", out)
	}
	buf := make([]byte, 8)
	if n, err := reader.Read(buf); string(buf[:n]) != "contents" {
		t.Errorf("the open file says %q, %v", buf[:n], err)
	}
	_ = reader.Close()
	r.up("--lower", r.path("base"))
	r.run("down", "--upper", r.path("upper"))
}

// A signal ends a stack that waits for its lowers, and what is under way is
// finished before one goes down that is up.
func TestSignals(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	r := newRig(t, testenv.Scratch(t))
	cmd := r.command("up", "--upper", r.path("upper"), "--root", r.dir, "--lower", r.path("base"), "--wait-for-lowers", "10m")
	p := testenv.Start(t, cmd)
	for !strings.Contains(p.Output(), "waiting for lower 'base'") {
		select {
		case <-p.Done():
			t.Fatal("it ended instead of waiting")
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := p.Stop(); err == nil || cmd.ProcessState.ExitCode() != int(exitTerminated) {
		t.Errorf("%v", err)
	}
	r.run("add", "--store", "local?root="+r.path("base"), r.write("f", "contents"))
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		p = r.up("--lower", r.path("base"))
		if err := p.Cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		if code := p.Cmd.ProcessState.ExitCode(); code != 0 || len(r.mounts()) > 0 {
			t.Errorf("%s: exit status %d, mounts %q\n%s", sig, code, r.mounts(), p.Output())
		}
	}
}

// becomeNobody lets commands run as an ordinary user, with a binary that he can
// reach.
func (r *rig) becomeNobody() {
	r.t.Helper()
	const nobody = 65534
	data, err := os.ReadFile(r.bin)
	if err == nil {
		r.bin = r.path("strata")
		err = os.WriteFile(r.bin, data, 0o755) //nolint:gosec // a program
	}
	if err == nil {
		err = os.Chown(r.dir, nobody, nobody)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.user = &syscall.Credential{Uid: nobody, Gid: nobody}
}

// Another user sees that a stack is up, and cannot tell it what to do.
func TestStackOfAnother(t *testing.T) {
	testenv.PrivilegedRoot(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	r := newRig(t, filepath.Join(testenv.Scratch(t), "other"))
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.run("add", "--store", "local?root="+r.path("base"), r.write("f", "contents"))
	p := r.up("--lower", r.path("base"))
	r.becomeNobody()
	st := r.status()
	if st.State != stack.StateUp || !st.Mounted || len(st.Problems) > 0 || st.Limited == "" {
		t.Errorf("%+v", st)
	}
	if out := r.run("status", "upper"); !strings.Contains(out, "upper: up for ") || !strings.Contains(out, "only root and its owner are told more") {
		t.Errorf("%s", out)
	}
	for _, what := range []string{"gc", "refresh"} {
		if out := r.runFails(what, "upper"); !strings.Contains(out, r.path("upper/control")+": connect: permission denied; only root and the stack's owner may") {
			t.Errorf("%s: %s", what, out)
		}
	}
	if out := r.runFails("down", "upper"); !strings.Contains(out, "operation not permitted") {
		t.Errorf("%s", out)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

// An ordinary user gets a namespace, and the words to get in.
func TestUpAsOrdinaryUser(t *testing.T) {
	testenv.OverlayUserNS(t)
	nsenter := testenv.Tool(t, "nsenter")
	r := newRig(t, filepath.Join(testenv.Scratch(t), "user"))
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		r.becomeNobody()
	}
	obj := r.run("add", "--store", "local?root="+r.path("base"), r.write("f", "contents"))
	out := r.run("up", "--upper", r.path("upper"), "--root", r.dir, "--lower", r.path("base"), "--detach")
	defer func() { _ = r.command("down", "--upper", r.path("upper"), "--lazy").Run() }()
	if !strings.Contains(out, "ready: ") {
		t.Errorf("%s", out)
	}
	st := r.status()
	if !st.Private || !st.Mounted || len(st.Problems) > 0 || len(st.Enter) == 0 || filepath.Base(nsenter) != st.Enter[0] {
		t.Fatalf("%+v", st)
	}
	if left := r.mounts(); len(left) > 0 {
		t.Errorf("mounts are seen outside: %q", left)
	}
	inside := exec.Command(nsenter, append(st.Enter[1:], "cat", filepath.Join(r.dir, obj))...)
	inside.SysProcAttr = &syscall.SysProcAttr{Credential: r.user}
	if got, err := inside.CombinedOutput(); err != nil || string(got) != "contents" {
		t.Errorf("inside: %q, %v", got, err)
	}
	r.run("down", "--upper", r.path("upper"))
}
