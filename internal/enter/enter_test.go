package enter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/internal/userns"
)

// The test binary is the supervisor and the server too.
const roleEnv = "STRATA_TEST_ENTER"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		if err := play(role); err != nil {
			fmt.Fprintln(os.Stderr, err)
			var status interface{ ExitStatus() uint64 }
			if errors.As(err, &status) {
				os.Exit(int(status.ExitStatus()))
			}
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// play is what the processes do: a place that is not there is mounted on, and the
// command is run.
func play(role string) error {
	server, err := Serve()
	if err != nil {
		return err
	}
	if server == nil {
		status, err := Supervise(userns.Self(context.Background(), os.Args[1:]...), Options{Umask: unix.Umask(0), Own: role != "root", Note: "a note"})
		var early *ServerError
		if errors.As(err, &early) {
			os.Exit(early.Status.ExitStatus())
		}
		if err != nil {
			return err
		}
		if status.Signaled() {
			os.Exit(128 + int(status.Signal()))
		}
		os.Exit(status.ExitStatus())
	}
	if server.Note() != "a note" {
		return fmt.Errorf("the note is %q", server.Note())
	}
	os.Unsetenv(roleEnv)
	if err := Root("/no-such-place/a/b", "/no-such-place/c", "/usr"); err != nil {
		return err
	}
	if err := unix.Mount("x", "/no-such-place/a/b", "tmpfs", 0, ""); err != nil {
		return err
	}
	cwd, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := server.Start(Command{Args: os.Args[1:], Env: os.Environ(), Dir: cwd}); err != nil {
		return err
	}
	<-server.Ended()
	return EndOthers(0)
}

func command(t *testing.T, role string, args ...string) *exec.Cmd {
	t.Helper()
	testenv.UserNS(t)
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Dir = testenv.Scratch(t)
	cmd.Stderr = os.Stderr
	return cmd
}

func run(t *testing.T, role, script string) (string, int) {
	t.Helper()
	cmd := command(t, role, "sh", "-c", script)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out)), cmd.ProcessState.ExitCode()
}

func TestAnotherRoot(t *testing.T) {
	out, code := run(t, "own", `
		stat -f -c %T /no-such-place/a/b; ls -d /no-such-place/c
		touch /new 2>/dev/null || echo read-only
		pwd`)
	lines := strings.Split(out, "\n")
	if code != 0 || len(lines) != 4 || lines[0] != "tmpfs" || lines[2] != "read-only" || !strings.Contains(lines[3], "/") {
		t.Errorf("%d: %q", code, out)
	}
	here, err := os.ReadDir("/")
	if err != nil {
		t.Fatal(err)
	}
	there, _ := run(t, "own", "ls -A /")
	for _, e := range here {
		if !strings.Contains("\n"+there+"\n", "\n"+e.Name()+"\n") {
			t.Errorf("/%s is missing in %q", e.Name(), there)
		}
	}
	if _, err := os.Lstat("/no-such-place"); err == nil {
		t.Error("something was made outside")
	}
}

func TestIdentity(t *testing.T) {
	if out, _ := run(t, "own", "echo $(id -u) $(id -g)"); out != fmt.Sprint(os.Getuid(), " ", os.Getgid()) {
		t.Errorf("the command is %s", out)
	}
	if out, _ := run(t, "root", "echo $(id -u) $(id -g); mount -t tmpfs x /mnt && echo mounted"); out != "0 0\nmounted" {
		t.Errorf("as root the command is %s", out)
	}
}

func TestStatus(t *testing.T) {
	for script, want := range map[string]int{"exit 7": 7, "true": 0, "kill -KILL $$": 128 + 9, "kill -TERM $$": 128 + 15} {
		if _, code := run(t, "own", script); code != want {
			t.Errorf("%s: %d", script, code)
		}
	}
	cmd := command(t, "own", "/etc/passwd")
	cmd.Stderr = nil
	if cmd.Run(); cmd.ProcessState.ExitCode() != 126 {
		t.Errorf("what cannot be executed: %v", cmd.ProcessState)
	}
	cmd = command(t, "own", "no-such-command")
	cmd.Stderr = nil
	if cmd.Run(); cmd.ProcessState.ExitCode() != 127 {
		t.Errorf("what is not there: %v", cmd.ProcessState)
	}
}

// A signal for the supervisor is one for the command, and nobody else's.
func TestSignalsAreForwarded(t *testing.T) {
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1, unix.SIGQUIT} {
		cmd := command(t, "own", "sh", "-c", `for s in TERM INT HUP USR1 QUIT; do trap "echo $s; exit 3" $s; done; echo ready; while :; do sleep 0.01; done`)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // there is no terminal
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, _ := out.Read(buf)
		if string(buf[:n]) != "ready\n" {
			t.Fatalf("%q", buf[:n])
		}
		cmd.Process.Signal(sig)
		n, _ = out.Read(buf)
		cmd.Wait()
		if want := strings.TrimPrefix(unix.SignalName(sig), "SIG") + "\n"; string(buf[:n]) != want || cmd.ProcessState.ExitCode() != 3 {
			t.Errorf("%v: %q, %v", sig, buf[:n], cmd.ProcessState)
		}
	}
}

// What nobody supervises any more ends.
func TestSupervisorIsKilled(t *testing.T) {
	cmd := command(t, "own", "sh", "-c", "echo ready; (trap '' HUP TERM; sleep 1000000) & sleep 1000000")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, _ := out.Read(buf); string(buf[:n]) != "ready\n" {
		t.Fatalf("%q", buf[:n])
	}
	cmd.Process.Kill()
	if n, err := out.Read(buf); n != 0 || err == nil { // it ends with the last process that has it
		t.Errorf("%q, %v", buf[:n], err)
	}
	cmd.Wait()
}

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"good": 0o755, "bad": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ name, path, want string }{
		{"good", "/no:" + dir, dir + "/good"}, {"good", "", ""}, {"good", ":", dir + "/good"}, {"bad", dir, ""}, {"./x", "", "./x"}, {"gone", dir, ""},
	} {
		got, err := lookPath(Command{Args: []string{tt.name}, Env: []string{"PATH=/usr/bin", "PATH=" + tt.path}, Dir: dir})
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%q in %q: %q, %v", tt.name, tt.path, got, err)
		}
	}
}
