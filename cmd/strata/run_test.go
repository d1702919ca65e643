package main

import (
	"errors"
	"fmt"
	"io"
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

// Stock Nix is the command, and finds the store and its daemon by itself.
func TestStockNixInRun(t *testing.T) {
	testenv.Long(t)
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		base := filepath.Join(nix.Dir, "base")
		hello := nix.WriteFile(t, "hello", "hello\n")
		run := func(args ...string) string {
			t.Helper()
			cmd := nix.StrataCommand(t.Context(), t, args...)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("strata %q: %v\n%s", args, err, stderr.String())
			}
			return strings.TrimSpace(string(out))
		}
		below := run("add", "--store", "local?root="+base, hello)
		drv := nix.WriteFile(t, "drv.nix", fmt.Sprintf(`derivation { name = "built"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "read line <%s; echo $line built >$out" ]; }`, below))
		nix.WriteFile(t, "mine", "mine\n")
		script := nix.WriteFile(t, "script", `set -e
			nix-store --add mine
			nix path-info `+below+`
			nix-store --query --hash `+below+`
			cat $(nix-build --no-out-link `+drv+`)
			nix build --no-link -f `+drv+`
			nix-store --verify --check-contents 2>&1 | tail -n 1
			test "$(id -u)" = "$1"
		`)
		me := strings.TrimSpace(nix.Run(t, "id", "-u")) // among the trees of Nix, which an ordinary user enters as root
		for _, how := range [][]string{nil, {"--userns"}, {"--userns", "--as-root"}} {
			args := append(append([]string{"run", "--lower", base}, how...), "--", "sh", script, me)
			lines := strings.Split(run(args...), "\n")
			if len(lines) < 4 || !strings.HasSuffix(lines[0], "-mine") || lines[1] != below || !strings.HasPrefix(lines[2], "sha256:") || lines[3] != "hello built" {
				t.Errorf("%q: %q", how, lines)
			}
		}
		if objects, err := os.ReadDir(filepath.Join(base, "nix/store")); err != nil || len(objects) > 2 { // .links
			t.Errorf("the lower has %v (%v)", objects, err)
		}
	})
}

// runPlace is where a command runs among stores, in a namespace of its own.
type runPlace struct {
	*place
	base, hello string
}

func newRunPlace(t *testing.T) *runPlace {
	t.Helper()
	p := &runPlace{place: newPlace(t)}
	p.base = filepath.Join(p.dir, "base")
	file := filepath.Join(p.dir, "hello")
	if err := os.WriteFile(file, []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := p.command("add", "--store", "local?root="+p.base, file).Output()
	if err != nil {
		t.Fatal(err)
	}
	p.hello = strings.TrimSpace(string(out))
	return p
}

// strata prepares the binary without the environment of another store.
func (p *runPlace) strata(args ...string) *exec.Cmd {
	cmd := p.command(args...)
	cmd.Env = append(cmd.Env, "NIX_REMOTE=", stack.RuntimeEnv+"="+filepath.Join(p.dir, "run"), "NIX_CONFIG=substituters =")
	return cmd
}

// What a host does not allow is explained.
func TestRunSaysWhatIsMissing(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{User: true}) {
		return
	}
	p := newRunPlace(t)
	fails := func(cmd *exec.Cmd, want ...string) {
		t.Helper()
		out, err := cmd.CombinedOutput()
		for _, w := range want {
			if err == nil || !strings.Contains(string(out), w) {
				t.Errorf("%q says %q, %v; want '%s'", cmd.Args[1:], out, err, w)
			}
		}
	}
	// An upper of somebody for whom the namespace has no number: everybody's root is such a one in here,
	// if this is run by an ordinary user.
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	if int(st.Uid) != os.Geteuid() {
		fails(p.strata("run", "--lower", p.base, "--name", "x", "--upper", "/", "--", "true"), "belongs to another user")
	}
	// No more namespaces.
	const limit = "/proc/sys/user/max_user_namespaces"
	if err := os.WriteFile(limit, []byte("0"), 0); err != nil {
		testenv.Skip(t, "needs a limit of its own user namespace: "+err.Error())
	}
	fails(p.strata("run", "--userns", "--lower", p.base, "--", "true"), "takes a user namespace", "max_user_namespaces is 0", "root can set")
}

// Without /dev/fuse the daemon fetches what it is asked for from the same caches.
func TestRunWithoutFUSE(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	p := newRunPlace(t)
	cache := filepath.Join(p.dir, "cache")
	if out, err := p.command("push", "--store", "local?root="+p.base, "file://"+cache, p.hello).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := os.Stat("/dev/fuse"); err == nil {
		if err := unix.Mount("/dev/null", "/dev/fuse", "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	lower := "lazy://?from=file://" + cache + "%3Ftrusted=true&cache=" + filepath.Join(p.dir, "kept")
	for _, lowers := range [][]string{{"--lower", lower}, {"--lower", lower, "--lower", filepath.Join(p.dir, "other")}} {
		if len(lowers) > 2 {
			if out, err := p.command("add", "--store", "local?root="+lowers[3], filepath.Join(p.base, p.hello)).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		args := append(append([]string{"run"}, lowers...), "--", "sh", "-c", `
			if test -e "$1"; then echo 'it is there already'; fi
			"$2" build --no-link "$1" && cat "$1"`, "sh", p.hello, p.bin)
		cmd := p.strata(args...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil || string(out) != p.hello+"\nhello\n" {
			t.Errorf("%q, %v, %s", out, err, stderr.String())
		}
		if !strings.Contains(stderr.String(), "lazy lowers need /dev/fuse") {
			t.Errorf("nobody was told: %s", stderr.String())
		}
	}
}

// An ordinary user keeps what a lazy lower fetches among his own things, though he is root in there.
func TestRunKeepsObjectsOfAUser(t *testing.T) {
	root := os.Geteuid() == 0
	if root && !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.UserNS(t)
	testenv.FUSE(t)
	p := newRunPlace(t)
	cache := filepath.Join(p.dir, "cache")
	if out, err := p.command("push", "--store", "local?root="+p.base, "file://"+cache, p.hello).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := p.strata("run", "--lower", "lazy://?from=file://"+cache+"%3Ftrusted=true", "--", "cat", p.hello)
	cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+filepath.Join(p.dir, "xdg"))
	if root {
		// Another user cannot search where the binary is, nor write where the test does, nor always mount.
		const user = 65534
		cmd.Path = filepath.Join(p.dir, "strata")
		cmd.SysProcAttr = &unix.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
		binary, err := os.ReadFile(p.bin)
		err = errors.Join(err, os.WriteFile(cmd.Path, binary, 0o755), os.Chmod(p.dir, 0o777)) //nolint:gosec // for the other user
		if err != nil {
			t.Fatal(err)
		}
		device := filepath.Join(p.dir, "fuse")
		err = unix.Mknod(device, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 229)))
		if err = errors.Join(err, os.Chmod(device, 0o666), unix.Mount(device, "/dev/fuse", "", unix.MS_BIND, "")); err != nil {
			testenv.Skip(t, "needs a device that everybody may open: "+err.Error())
		}
	}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "hello\n" {
		t.Errorf("%q, %v", out, err)
	}
	if kept, err := filepath.Glob(filepath.Join(p.dir, "xdg/strata/lazy/*/objects/*")); err != nil || len(kept) != 1 {
		t.Errorf("%q are kept, %v", kept, err)
	}
}

// Whatever is killed, nothing goes on that nobody wants, and nothing is left that the next
// one does not take away.
func TestRunIsKilled(t *testing.T) {
	testenv.Long(t)
	testenv.UserNS(t)
	p := newRunPlace(t)
	upper := filepath.Join(p.dir, "upper")
	for _, victim := range []string{"supervisor", "server", "command", "all"} {
		for _, where := range [][]string{nil, {"--upper", upper}} {
			cmd := p.strata(append(append([]string{"run", "--userns", "--lower", p.base}, where...), "--",
				"sh", "-c", `trap '' HUP; sleep 100000 & a=$!; sleep 100000 & echo $$ $a $!; wait`)...)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 100)
			n, _ := out.Read(buf)
			var command int
			running := make([]int, 2)
			if _, err := fmt.Sscan(string(buf[:n]), &command, &running[0], &running[1]); err != nil {
				t.Fatalf("%q, %v", buf[:n], err)
			}
			server := p.serverOf(cmd.Process.Pid, command)
			for _, pid := range map[string][]int{
				"supervisor": {cmd.Process.Pid}, "server": {server}, "command": {command}, "all": {server, cmd.Process.Pid, command},
			}[victim] {
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			if victim == "server" {
				if err := unix.Kill(command, unix.SIGTERM); err != nil { // which goes on without it
					t.Fatal(err)
				}
			}
			_ = cmd.Wait()
			p.until("the server has ended", func() bool { return unix.Kill(server, 0) != nil })
			for _, pid := range running {
				if victim != "server" && victim != "all" {
					p.until("what the command has left has ended", func() bool { return unix.Kill(pid, 0) != nil })
				} else {
					_ = unix.Kill(pid, unix.SIGKILL) // there is nobody who would
				}
			}
			again := p.strata(append(append([]string{"run", "--userns", "--lower", p.base}, where...), "--", "cat", p.hello)...)
			if out, err := again.CombinedOutput(); err != nil || string(out) != "hello\n" {
				t.Errorf("after %s was killed: %q, %v", victim, out, err)
			}
			left, err := os.ReadDir(filepath.Join(p.dir, "run/uppers"))
			if err != nil || len(left) > 0 {
				t.Errorf("after %s was killed there is left: %v, %v", victim, left, err)
			}
			if _, err := os.Stat(filepath.Join(upper, "run.json")); err == nil {
				t.Errorf("after %s was killed: the upper says that it is up", victim)
			}
		}
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(table), p.dir) {
		t.Errorf("something is mounted: %v %s", err, table)
	}
}

// serverOf finds the other child of a supervisor.
func (p *runPlace) serverOf(supervisor, command int) (pid int) {
	p.t.Helper()
	p.until("there is a server", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", supervisor))
		if err != nil {
			p.t.Fatal(err)
		}
		for _, file := range threads {
			b, _ := os.ReadFile(file) // the thread may have ended
			for _, f := range strings.Fields(string(b)) {
				if n, _ := strconv.Atoi(f); n != command {
					pid = n
				}
			}
		}
		return pid != 0
	})
	return pid
}

func (p *runPlace) until(what string, f func() bool) {
	p.t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("never: %s", what)
		}
	}
}

// Whoever serves a lazy lower, or keeps it, or the store, may be killed: the command goes on reading from it, and when that has
// ended nothing is left.
func TestRunWithALazyLowerIsKilled(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.FUSE(t)
	p := newRunPlace(t)
	cache := filepath.Join(p.dir, "cache")
	if out, err := p.command("push", "--store", "local?root="+p.base, "file://"+cache, p.hello).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for i, victims := range [][]string{{"serve"}, {"keep"}, {"run"}, {"run", "serve"}, {"run", "keep"}, {"run", "keep", "serve"}} {
		lower := fmt.Sprintf("lazy://?from=file://%s%%3Ftrusted=true&cache=%s/kept%d", cache, p.dir, i)
		// The processes find each other by the place of what is kept.
		cmd := p.strata("run", "--userns", "--lower", lower, "--", "sh", "-c", `echo ready; read line; cat "$1"; echo $?; exit 7`, "sh", p.hello)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stderr, err := os.Create(filepath.Join(p.dir, fmt.Sprintf("stderr%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		defer stderr.Close()
		cmd.Stderr = stderr
		heard := func() string {
			text, err := os.ReadFile(stderr.Name())
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		if n, err := out.Read(buf); string(buf[:n]) != "ready\n" {
			t.Fatalf("%q, %v, %s", buf[:n], err, heard())
		}
		find := func() map[string]int { return processesWith(t, fmt.Sprintf("%s/kept%d", p.dir, i), cmd.Process.Pid) }
		p.until("the lower is served", func() bool { return len(find()) == 3 })
		all := find()
		for _, v := range victims {
			if err := unix.Kill(all[v], unix.SIGKILL); err != nil {
				t.Fatalf("%s, of %v: %v", v, all, err)
			}
		}
		const lost = "has ended before the command"
		if victims[0] == "run" {
			p.until("the supervisor knows", func() bool { return strings.Contains(heard(), lost) })
		}
		if _, err := in.Write([]byte("go on\n")); err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(out)
		_ = cmd.Wait()
		want := "hello\n0\n"
		if len(victims) == 3 {
			want = "1\n" // nobody is left who could take over
		}
		if string(said) != want || err != nil || cmd.ProcessState.ExitCode() != 7 {
			t.Errorf("after %q were killed: %q, %v, %v, %s", victims, said, err, cmd.ProcessState, heard())
		}
		if told := strings.Contains(heard(), lost); told != (victims[0] == "run") {
			t.Errorf("after %q were killed it says: %s", victims, heard())
		}
		p.until(fmt.Sprintf("all have ended after %q were killed", victims), func() bool { return len(find()) == 0 })
	}
}

// processesWith finds the processes of strata that have a word in their arguments, but one, by what they do.
func processesWith(t *testing.T, word string, but int) map[string]int {
	t.Helper()
	found := map[string]int{}
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, _ := os.ReadFile(file) // it may have ended
		args := strings.Split(string(b), "\x00")
		pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
		if pid == but || !strings.Contains(string(b), word) {
			continue
		}
		for _, what := range []string{"run", "keep", "serve"} {
			if slices.Contains(args, what) {
				found[what] = pid
			}
		}
	}
	return found
}
