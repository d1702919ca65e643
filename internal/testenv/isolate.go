package testenv

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// isolatedVar tells the child which test it was started for.
const isolatedVar = "STRATA_TEST_ISOLATED"

// Isolate runs the calling test again in a child process that has a mount
// namespace of its own (and a user namespace, see Namespace), where the test
// may mount what it likes: everything is gone when the child ends, however it
// ends. It reports whether this process is that child:
//
//	func TestMergedView(t *testing.T) {
//		if !testenv.Isolate(t, testenv.Namespace{}) {
//			return // the child has done it
//		}
//		...
//	}
//
// It must be the first call of a top-level test or subtest. The child's output
// and its failure or skip become the parent's. Without the kernel's permission
// the test is skipped.
func Isolate(t *testing.T, ns Namespace) bool {
	t.Helper()
	if os.Getenv(isolatedVar) == t.Name() {
		if err := ns.enter(); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if ns.User || os.Geteuid() != 0 {
		UserNS(t)
	}
	rerun(t, ns.sysProcAttr())
	return false
}

// nobody is the user that Unprivileged becomes when root runs the tests.
const nobody = 65534

// Unprivileged is Isolate for a test that needs permission bits to mean
// something, which for root they do not: when root runs the test, it runs again
// in a child process as an ordinary user, and this reports false in the parent.
// When an ordinary user runs it, this just reports true.
func Unprivileged(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return true
	}
	rerun(t, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}})
	return false
}

// rerun runs the calling test in a child process and takes over its outcome.
func rerun(t *testing.T, attr *syscall.SysProcAttr) {
	t.Helper()
	dir := Scratch(t)
	if err := os.Chmod(dir, 0o777); err != nil { // the child may be another user
		t.Fatal(err)
	}
	skipFile := filepath.Join(dir, "skip")
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", childArgs(os.Args[1:], t.Name())...)
	attr.Pdeathsig = syscall.SIGKILL // a killed parent leaves no child with mounts behind
	cmd.SysProcAttr = attr
	cmd.Env = append(os.Environ(), isolatedVar+"="+t.Name(), skipFileVar+"="+skipFile)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in the child process: %v\n%s", err, out)
	}
	reason, err := os.ReadFile(skipFile)
	switch {
	case err == nil:
		t.Skip(string(reason))
	case !errors.Is(err, fs.ErrNotExist):
		t.Fatal(err)
	case !bytes.Contains(out, []byte("--- PASS: "+t.Name()+" ")):
		t.Fatalf("the child process did not run the test:\n%s", out)
	}
}

// childArgs are the parent's own flags with the selection narrowed to one test
// and without those that would write the parent's files a second time.
func childArgs(parent []string, test string) []string {
	var args []string
	for _, a := range parent {
		name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		switch {
		case strings.HasSuffix(name, "profile"), name == "test.trace", name == "test.gocoverdir",
			name == "test.run", name == "test.v", name == "test.count", name == "test.testlogfile",
			name == "test.paniconexit0", name == "test.skip", name == "test.fuzz", name == "test.bench":
			continue
		}
		args = append(args, a)
	}
	parts := strings.Split(test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return append([]string{"-test.run=" + strings.Join(parts, "/"), "-test.v", "-test.count=1"}, args...)
}
