package stack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/internal/userns"
)

// Who is root only of a user namespace has the names where the user has them outside of it.
func TestNamesInAUserNamespace(t *testing.T) {
	const child = "STRATA_TEST_RUNTIME_DIR"
	if os.Getenv(child) != "" {
		fmt.Printf("\n%s\n", RuntimeDir())
		os.Exit(0)
	}
	testenv.UserNS(t)
	t.Setenv(RuntimeEnv, "")
	dir := testenv.Scratch(t)
	for _, set := range []string{"", dir} {
		t.Setenv("XDG_RUNTIME_DIR", set)
		cmd := userns.Self(t.Context(), "-test.run=^TestNamesInAUserNamespace$")
		cmd.Env = append(os.Environ(), child+"=1")
		out, err := cmd.Output()
		if err != nil || !strings.Contains(string(out), "\n"+RuntimeDir()+"\n") {
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
