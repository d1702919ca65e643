package testenv

import (
	"bytes"
	"fmt"
	"os/exec"
	"sync"
	"testing"
)

// Bwrap skips the test unless builders can be isolated: bubblewrap is installed
// and can make the namespaces, with a /proc of their own.
func Bwrap(t testing.TB) {
	t.Helper()
	Tool(t, "bwrap")
	UserNS(t)
	if err := probeBwrap(); err != nil {
		Skipf(t, "needs a sandbox by bubblewrap: %v", err)
	}
}

var probeBwrap = sync.OnceValue(func() error {
	bwrap, err := findTool("bwrap")
	if err != nil {
		return err
	}
	out, err := exec.Command(bwrap, "--unshare-all", "--unshare-user", "--ro-bind", "/", "/", "--proc", "/proc", "true").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
})
