package stack

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/internal/userns"
)

// Who is root only of a user namespace has the names where the user has them outside of it, and so has
// who is himself again in another one within that, as in 'strata run'.
func TestNamesInAUserNamespace(t *testing.T) {
	const child = "STRATA_TEST_RUNTIME_DIR"
	if who := os.Getenv(child); who != "" {
		fmt.Printf("\n%s\n", RuntimeDir())
		if uid, err := strconv.Atoi(who); err == nil {
			again := exec.Command("/proc/self/exe", os.Args[1:]...)
			again.Env = append(os.Environ(), child+"=himself")
			again.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: 0, Size: 1}},
			}
			out, err := again.CombinedOutput()
			fmt.Printf("himself: %v%s", err, out)
		}
		os.Exit(0)
	}
	testenv.UserNS(t)
	t.Setenv(RuntimeEnv, "")
	dir := testenv.Scratch(t)
	for _, set := range []string{"", dir} {
		t.Setenv("XDG_RUNTIME_DIR", set)
		cmd := userns.Self(t.Context(), "-test.run=^TestNamesInAUserNamespace$")
		cmd.Env = append(os.Environ(), child+"="+strconv.Itoa(os.Geteuid()))
		out, err := cmd.Output()
		if want := "\n" + RuntimeDir() + "\nhimself: <nil>\n" + RuntimeDir() + "\n"; err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%v: %s, and outside '%s'", err, out, RuntimeDir())
		}
		want := systemRuntimeDir
		switch uid := os.Geteuid(); {
		case uid != 0 && set != "":
			want = filepath.Join(dir, "strata")
		case uid != 0:
			want = filepath.Join(os.TempDir(), fmt.Sprintf("strata-%d", uid))
		}
		if got := RuntimeDir(); got != want {
			t.Errorf("it is '%s', not '%s'", got, want)
		}
	}
}
