package sandbox_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/internal/testenv"
)

// leftovers are processes that builders try to leave behind. Each of them holds
// the builder's output, so the end of that is their end. What is sure about each is
// that it exists when the builder ends.
var leftovers = map[string]string{
	"background":    "sleep 1000000 &",
	"daemon":        "(setsid sh -c 'echo $$ >pid; exec sleep 1000000' & ) ; until test -s pid; do :; done",
	"double fork":   "(setsid sh -c '(setsid sh -c \"echo \\$\\$ >pid; exec sleep 1000000\" &)' &) ; until test -s pid; do :; done",
	"deaf":          "(trap '' HUP INT TERM; echo x >pid; setsid sleep 1000000) & until test -s pid; do :; done",
	"stopped":       "sleep 1000000 & kill -STOP $!",
	"many":          "i=0; while test $i -lt 100; do setsid sleep 1000000 & i=$((i+1)); done",
	"restless":      "(setsid sh -c 'echo x >pid; while :; do sleep 0 & done' &) ; until test -s pid; do :; done",
	"closed output": "(setsid sleep 1000000 >/dev/null 2>&1 &)",
}

func TestNothingSurvives(t *testing.T) {
	inModes(t, func(t *testing.T, m mode) {
		for name, script := range leftovers {
			t.Run(name, func(t *testing.T) {
				s := m.spec(t, "cd /build 2>/dev/null || cd $dir\n"+script+"\nexit 3")
				if !m.isolated {
					s.Env = append(s.Env, "dir="+openScratch(t))
				}
				b := start(t, s)
				keeper := b.KeeperPid()
				if exit, out := b.end(t); exit.Status.ExitStatus() != 3 || exit.Killed {
					t.Errorf("%+v\n%s", exit, out)
				}
				noRemains(t, keeper)
				noProcesses(t, m.user)
			})
		}
	})
}

// A killed builder is gone with all its processes, whatever it does about signals.
func TestKill(t *testing.T) {
	inModes(t, func(t *testing.T, m mode) {
		for name, script := range map[string]string{
			"busy":    "echo ready; while :; do :; done",
			"deaf":    "trap '' HUP INT TERM; echo ready; sleep 1000000",
			"stopped": "echo ready; kill -STOP $$; sleep 1000000",
			"family":  "(setsid sh -c '(setsid sleep 1000000 &) ; sleep 1000000' & ) ; echo ready; sleep 1000000",
			"crowd":   "i=0; while test $i -lt 300; do i=$((i+1)); (setsid sleep 1000000 &); done & echo ready; wait; sleep 1000000",
		} {
			t.Run(name, func(t *testing.T) {
				b := start(t, m.spec(t, script))
				b.line(t)
				b.Kill()
				b.Kill()
				if exit, out := b.end(t); exit.Status.Signal() != unix.SIGKILL || !exit.Killed {
					t.Errorf("%+v\n%s", exit, out)
				}
				noProcesses(t, m.user)
			})
		}
	})
}

// openScratch is a directory that all users may write to.
func openScratch(t testing.TB) string {
	t.Helper()
	dir := testenv.Scratch(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// noRemains fails if a keeper that has gone on to exist keeps something of a builder:
// children, files, or namespaces.
func noRemains(t *testing.T, keeper int) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d", keeper)
	tasks, _ := filepath.Glob(proc + "/task/*") // none if it has ended
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if children, err := os.ReadFile(task + "/children"); err == nil && len(children) > 0 {
			t.Errorf("children of the keeper: %s", children)
		}
		if theirs, err := os.Readlink(task + "/ns/mnt"); err == nil && theirs != ours {
			t.Errorf("a thread of the keeper has mounts of its own: %s", theirs)
		}
	}
	files := openFiles(t, "self")
	for file, n := range openFiles(t, strconv.Itoa(keeper)) {
		// What we have not been told to close is in all of us.
		if file != "socket" && file != "anon_inode" && files[file] == 0 {
			t.Errorf("a file of the keeper: %s", file)
		}
		const most = 3 // standard ones, the connection, and those of Go's runtime
		if n > most+files[file] {
			t.Errorf("the keeper has %d of %s", n, file)
		}
	}
}

// openFiles counts those of a process by what they are; sockets and the like together.
func openFiles(t *testing.T, pid string) map[string]int {
	t.Helper()
	count := make(map[string]int)
	fds, _ := os.ReadDir("/proc/" + pid + "/fd") // none if it has ended
	for _, fd := range fds {
		if file, err := os.Readlink("/proc/" + pid + "/fd/" + fd.Name()); err == nil {
			if kind, _, ok := strings.Cut(file, ":"); ok && kind != "pipe" {
				file = kind
			}
			count[file]++
		}
	}
	return count
}

// One keeper serves builders one after the other, if nothing came between.
func TestKeeperServesAgain(t *testing.T) {
	for _, isolated := range []bool{true, false} {
		t.Run(fmt.Sprintf("isolated=%t", isolated), func(t *testing.T) {
			m := mode{isolated: isolated}
			first := start(t, m.spec(t, "umask 0; cd /; ulimit -c; echo x"))
			first.end(t)
			second := start(t, m.spec(t, "umask; ulimit -c; read line"))
			pid := second.KeeperPid()
			if reused := pid == first.KeeperPid(); reused != (os.Geteuid() == 0 || !isolated) {
				t.Errorf("the keeper is used again: %t", reused)
			}
			if exit, out := second.end(t); out != "0022\n0\n" || exit.Status.ExitStatus() != 1 {
				t.Errorf("%+v: %q", exit, out)
			}
			third := start(t, m.spec(t, "sleep 1000000"))
			third.Kill()
			third.end(t)
			if err := unix.Kill(third.KeeperPid(), 0); err != unix.ESRCH {
				t.Errorf("the keeper of a builder that was killed: %v", err)
			}
			third.Kill() // does no harm to whom it is not meant for
			fourth := start(t, m.spec(t, "echo fine"))
			first.Kill()
			if err := first.Show(t.Context(), "/usr", "/usr"); err == nil {
				t.Error("something was shown to a builder that has ended")
			}
			if exit, out := fourth.end(t); exit.Status != 0 || out != "fine\n" {
				t.Errorf("%+v: %q", exit, out)
			}
		})
	}
}

// noProcesses fails if a process of a build user is left.
func noProcesses(t *testing.T, u *sandbox.User) {
	t.Helper()
	if u == nil {
		return
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile("/proc/" + e.Name() + "/status")
		if err == nil && strings.Contains(string(b), "\nUid:\t"+strconv.Itoa(int(u.UID))+"\t") && !strings.Contains(string(b), "\nState:\tZ") {
			t.Errorf("left behind: %s", b)
		}
	}
}

func TestContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := shell(world(t), "echo ready; sleep 1000000")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.Output = w
	p, err := sandbox.Start(ctx, s)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	bufio.NewReader(r).ReadString('\n')
	cancel()
	if exit, err := p.Wait(); err != nil || !exit.Killed {
		t.Errorf("%+v, %v", exit, err)
	}
	if _, err := sandbox.Start(ctx, s); err == nil {
		t.Error("a builder was started for a context that has ended")
	}
}

// How a builder ended is told exactly, as its parent would hear it.
func TestExitStatus(t *testing.T) {
	inModes(t, func(t *testing.T, m mode) {
		exit, _ := start(t, m.spec(t, "exit 137")).end(t)
		if exit.Status.ExitStatus() != 137 || exit.Killed {
			t.Errorf("exit 137: %+v", exit)
		}
		exit, _ = start(t, m.spec(t, `i=0; while test $i -lt 100000; do i=$((i+1)); done`)).end(t)
		if exit.User+exit.System <= 0 {
			t.Errorf("it used no time: %+v", exit)
		}
		if m.isolated {
			return // the first process of a pid namespace does not die by its own signals
		}
		exit, _ = start(t, m.spec(t, "kill -SEGV $$")).end(t)
		if exit.Status.Signal() != unix.SIGSEGV || exit.Killed {
			t.Errorf("signal: %+v", exit)
		}
	})
}

// The keeper is not indispensable.
func TestKeeperKilled(t *testing.T) {
	inModes(t, func(t *testing.T, m mode) {
		script := "echo ready; exec sleep 1000000" // whatever else there is outlives it, without a sandbox or a build user
		if m.isolated || m.user != nil {
			script = "(setsid sleep 1000000 &); " + script
		}
		b := start(t, m.spec(t, script))
		b.line(t)
		if err := unix.Kill(b.KeeperPid(), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if out, err := io.ReadAll(b.out); err != nil || len(out) > 0 { // it ends
			t.Errorf("%q, %v", out, err)
		}
		if _, err := b.Wait(); err == nil {
			t.Error("nothing is said of the keeper's death")
		}
		noProcesses(t, m.user)
	})
}

// When the program that started it is killed, so is the builder.
func TestParentKilled(t *testing.T) {
	isolation, err := json.Marshal(world(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{"isolated": {string(isolation)}, "open": nil} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe", args...)
			cmd.Args[0] = programPrefix + "parent"
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(out)
			if line, err := lines.ReadString('\n'); line != "started\n" {
				t.Fatalf("%q, %v", line, err)
			}
			cmd.Process.Kill()
			if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 { // it ends with the last process
				t.Errorf("%q, %v", rest, err)
			}
			cmd.Wait()
		})
	}
}

func TestEndUser(t *testing.T) {
	for _, uid := range []uint32{0, uint32(os.Getuid()), ^uint32(0), ^uint32(0) - 1} {
		if err := sandbox.EndUser(uid); err == nil {
			t.Errorf("the processes of user %d were killed", uid)
		}
	}
}
