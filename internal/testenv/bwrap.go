package testenv

import "testing"

// Bwrap skips the test unless builders can be isolated: bubblewrap is installed,
// and user namespaces can be made.
func Bwrap(t testing.TB) {
	t.Helper()
	Tool(t, "bwrap")
	UserNS(t)
}
