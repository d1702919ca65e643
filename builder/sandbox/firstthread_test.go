package sandbox

import (
	"os"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// Killing as a user must not leave his ids on the first thread, which are those
// of the process: the next one who kills as that user would kill us.
func TestKillingLeavesTheProcessAsItWas(t *testing.T) {
	testenv.PrivilegedRoot(t)
	const somebody = 0x34ff0001
	for range 300 {
		if err := killUser(somebody); err != nil {
			t.Fatal(err)
		}
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(status), "\nUid:\t0\t0\t0\t0\n") {
			t.Fatalf("this process has become somebody else:\n%s", status)
		}
	}
}
