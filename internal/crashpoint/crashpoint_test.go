package crashpoint

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

const childEnv = "CRASHPOINT_TEST_CHILD"

func TestKillAt(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		KillAt(1, func(name string) { _, _ = os.Stdout.WriteString("killed at " + name) })
		for _, name := range []string{"one", "two", "three"} {
			Reached(name)
		}
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestKillAt$")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("not killed: %v", err)
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL || !strings.HasSuffix(string(out), "killed at two") {
		t.Errorf("%v, after %q", err, out)
	}
}
