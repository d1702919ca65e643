package testenv

import (
	"fmt"
	"os"
	"testing"
)

const (
	// noSkipVar turns every skip into a failure when it is set to anything but "" or "0".
	noSkipVar = "STRATA_TEST_NO_SKIP"
	// skipFileVar names the file in which a test that runs again in a child
	// process (see Isolate) leaves the reason of its skip for the parent.
	skipFileVar = "STRATA_TEST_SKIP_FILE"
)

// Skip ends the test as skipped for the given reason, which should name what is
// missing and, where it helps, how to get it. When STRATA_TEST_NO_SKIP is set
// the test fails instead.
func Skip(t testing.TB, reason string) {
	t.Helper()
	if flagSet(noSkipVar) {
		t.Fatalf("would be skipped, and %s is set: %s", noSkipVar, reason)
	}
	skip(t, reason)
}

// skip tells the process that this one was started for, if there is one, of it, too.
func skip(t testing.TB, reason string) {
	t.Helper()
	if name := os.Getenv(skipFileVar); name != "" {
		if err := os.WriteFile(name, []byte(reason), 0o644); err != nil {
			t.Fatalf("tell the parent process of a skip (%s): %v", reason, err)
		}
	}
	t.Skip(reason)
}

// Skipf is Skip with a format.
func Skipf(t testing.TB, format string, args ...any) {
	t.Helper()
	Skip(t, fmt.Sprintf(format, args...))
}

// Long marks a test that takes more than a few seconds: it does not run with
// `go test -short`. That is a choice of whoever runs the tests and not a lack
// of the machine, so STRATA_TEST_NO_SKIP does not matter here.
func Long(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long; not run with -short")
	}
}

// LongWithRace marks a test that takes many times as long under the race detector, and of which that learns
// nothing: what it runs is in one goroutine, or in programs that are no race binaries. Like Long it is no lack
// of the machine.
func LongWithRace(t testing.TB) {
	t.Helper()
	if raceDetector {
		skip(t, "not run under the race detector, for which there is nothing to see")
	}
}

func flagSet(name string) bool {
	v := os.Getenv(name)
	return v != "" && v != "0"
}
