package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// Root skips the test unless it runs as uid 0. Inside a user namespace (see
// Isolate) that is true although the machine's root is not meant; a test that
// needs real privilege asks with PrivilegedRoot.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skipf(t, "needs root; this is uid %d", os.Geteuid())
	}
}

// PrivilegedRoot skips the test unless it runs as uid 0 of the initial user
// namespace, as mounting an image or setting trusted.* attributes demands.
func PrivilegedRoot(t testing.TB) {
	t.Helper()
	Root(t)
	if !inInitialUserNS() {
		Skip(t, "needs root of the initial user namespace")
	}
}

// inInitialUserNS knows by the identity map that only the first namespace has.
func inInitialUserNS() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(b)), " ") == "0 0 4294967295"
}

var probeUserNS = sync.OnceValue(func() error {
	return probe("true", Namespace{User: true})
})

// UserNS skips the test when an unprivileged user namespace with a mount
// namespace in it cannot be made.
func UserNS(t testing.TB) {
	t.Helper()
	if err := probeUserNS(); err != nil {
		Skipf(t, "needs user namespaces: %v", err)
	}
}

var (
	probeOverlay     = sync.OnceValue(func() error { return probe("overlay", Namespace{}) })
	probeOverlayUser = sync.OnceValue(func() error { return probe("overlay", Namespace{User: true}) })
	probeEROFS       = sync.OnceValue(func() error { return probe("erofs", Namespace{}) })
)

// Overlay skips the test when OverlayFS cannot be mounted in a mount namespace
// of one's own: as root directly, otherwise within a user namespace.
func Overlay(t testing.TB) {
	t.Helper()
	if err := probeOverlay(); err != nil {
		Skipf(t, "needs OverlayFS: %v", err)
	}
}

// OverlayUserNS skips the test when OverlayFS cannot be mounted in a user
// namespace, whoever runs the test.
func OverlayUserNS(t testing.TB) {
	t.Helper()
	UserNS(t)
	if err := probeOverlayUser(); err != nil {
		Skipf(t, "needs OverlayFS in a user namespace: %v", err)
	}
}

// EROFS returns the path of mkfs.erofs, or skips the test.
func EROFS(t testing.TB) string {
	t.Helper()
	return Tool(t, "mkfs.erofs")
}

// EROFSMount skips the test unless an EROFS image can be made and mounted
// here, which takes real root and the kernel's driver. It returns the path of
// mkfs.erofs.
func EROFSMount(t testing.TB) string {
	t.Helper()
	mkfs := EROFS(t)
	PrivilegedRoot(t)
	if err := probeEROFS(); err != nil {
		Skipf(t, "needs the kernel's EROFS: %v", err)
	}
	return mkfs
}

// FUSE skips the test unless /dev/fuse can be opened.
func FUSE(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		Skipf(t, "needs FUSE: %v", err)
	}
	f.Close()
}

// Tool returns the path of an installed program, or skips the test.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := findTool(name)
	if err != nil {
		Skip(t, err.Error())
	}
	return path
}

// findTool also looks where a user's PATH often does not.
func findTool(name string) (string, error) {
	for _, cand := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(cand); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("needs the program %s", name)
}
