package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestIsolatedMountStaysInside(t *testing.T) {
	// Both processes see this directory; only the child sees the mount.
	mark := filepath.Join(os.TempDir(), "strata-isolate-test")
	if !Isolate(t, Namespace{}) {
		if _, err := os.Stat(mark); err == nil {
			t.Error("the child's mount is seen outside")
		}
		return
	}
	if err := unix.Mount("tmpfs", os.TempDir(), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mark, nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestIsolatedUserNamespaceMapsRoot(t *testing.T) {
	if !Isolate(t, Namespace{User: true}) {
		return
	}
	if os.Geteuid() != 0 || inInitialUserNS() {
		t.Errorf("uid %d, initial namespace: %t", os.Geteuid(), inInitialUserNS())
	}
}

func TestIsolatedProcessesSeeNoOthers(t *testing.T) {
	if !Isolate(t, Namespace{PIDs: true}) {
		return
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var processes []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			processes = append(processes, e.Name())
		}
	}
	if os.Getpid() != 1 || len(processes) != 1 {
		t.Errorf("this is process %d of %q", os.Getpid(), processes)
	}
}

func TestIsolatedSubtests(t *testing.T) {
	for _, name := range []string{"one", "two/three", "with space"} {
		t.Run(name, func(t *testing.T) {
			if Isolate(t, Namespace{}) && !strings.HasPrefix(t.Name(), "TestIsolatedSubtests/") {
				t.Errorf("running as %s", t.Name())
			}
		})
	}
}

// TestSkipAndFailure looks at skips and failures of real test processes: the
// tests below, run by their parent with outcomeVar set.
func TestSkipAndFailure(t *testing.T) {
	cases := []struct {
		name, test string
		env        []string
		pass       bool
		want       []string
	}{
		{"skip", "TestOutcomeSkip", nil, true, []string{"--- SKIP: TestOutcomeSkip", "wants a pony"}},
		{"no skip allowed", "TestOutcomeSkip", []string{noSkipVar + "=1"}, false, []string{"--- FAIL: TestOutcomeSkip", "wants a pony"}},
		{"no skip is off with 0", "TestOutcomeSkip", []string{noSkipVar + "=0"}, true, []string{"--- SKIP"}},
		{"skip in the child", "TestOutcomeIsolatedSkip", nil, true, []string{"--- SKIP: TestOutcomeIsolatedSkip", "wants two ponies"}},
		{"no skip in the child", "TestOutcomeIsolatedSkip", []string{noSkipVar + "=1"}, false, []string{"--- FAIL: TestOutcomeIsolatedSkip", "wants two ponies"}},
		{"failure in the child", "TestOutcomeIsolatedFailure", nil, false, []string{"--- FAIL: TestOutcomeIsolatedFailure", "broken in the child"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe", "-test.run=^"+c.test+"$", "-test.v")
			cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, noSkipVar) })
			cmd.Env = append(append(cmd.Env, outcomeVar+"=1"), c.env...)
			out, err := cmd.CombinedOutput()
			if (err == nil) != c.pass {
				t.Errorf("ended with %v", err)
			}
			for _, w := range c.want {
				if !strings.Contains(string(out), w) {
					t.Errorf("%q is missing", w)
				}
			}
			if t.Failed() {
				t.Logf("output:\n%s", out)
			}
		})
	}
}

const outcomeVar = "STRATA_TESTENV_OUTCOME"

// wantedOutcome keeps the tests that are made to be skipped or to fail out of
// an ordinary run, where they have nothing to show.
func wantedOutcome() bool { return os.Getenv(outcomeVar) != "" }

func TestOutcomeSkip(t *testing.T) {
	if wantedOutcome() {
		Skip(t, "wants a pony")
	}
}

func TestOutcomeIsolatedSkip(t *testing.T) {
	if wantedOutcome() && Isolate(t, Namespace{}) {
		Skipf(t, "wants %s ponies", "two")
	}
}

func TestOutcomeIsolatedFailure(t *testing.T) {
	if wantedOutcome() && Isolate(t, Namespace{}) {
		t.Error("broken in the child")
	}
}

func TestUnprivilegedIsBoundByPermissionBits(t *testing.T) {
	if !Unprivileged(t) {
		return
	}
	file := filepath.Join(t.TempDir(), "sealed")
	if err := os.WriteFile(file, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(file); !os.IsPermission(err) {
		t.Errorf("as uid %d: %v", os.Geteuid(), err)
	}
}
