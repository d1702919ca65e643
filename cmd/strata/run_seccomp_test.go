package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
)

// seccompVar tells the test binary to become another program that may not do everything: "EPERM mount unshare" is what
// it is answered to which calls.
const seccompVar = "STRATA_TEST_SECCOMP"

// forbidden are system calls that filters of containers forbid, by name. mask are the flags in the first argument
// for which they do; 0: always.
var forbidden = map[string]struct {
	number uintptr
	mask   uint32
}{
	"clone":         {unix.SYS_CLONE, unix.CLONE_NEWUSER | unix.CLONE_NEWNS},
	"clone3":        {unix.SYS_CLONE3, 0}, // its flags are not in an argument
	"unshare":       {unix.SYS_UNSHARE, unix.CLONE_NEWUSER | unix.CLONE_NEWNS},
	"mount":         {unix.SYS_MOUNT, 0},
	"fsopen":        {unix.SYS_FSOPEN, 0},
	"open_tree":     {unix.SYS_OPEN_TREE, 0},
	"move_mount":    {unix.SYS_MOVE_MOUNT, 0},
	"mount_setattr": {unix.SYS_MOUNT_SETATTR, 0},
}

// becomeFiltered becomes the program that the arguments name.
func becomeFiltered(rule string) {
	runtime.LockOSThread()
	_ = os.Unsetenv(seccompVar)
	words := strings.Fields(rule)
	errnos := map[string]unix.Errno{"EPERM": unix.EPERM, "ENOSYS": unix.ENOSYS}
	err := installFilter(errnos[words[0]], words[1:])
	if err == nil {
		err = syscall.Exec(os.Args[1], os.Args[1:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(125)
}

// installFilter installs a filter of system calls, for this thread and what it becomes.
// Source: seccomp(2), include/uapi/linux/{filter,seccomp}.h.
func installFilter(answer unix.Errno, calls []string) error {
	const (
		load, number, firstArgument = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, 0, 16
		equal, anyBit, ret          = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, unix.BPF_RET | unix.BPF_K
		allow, refuse               = 0x7fff0000, 0x00050000
		setModeFilter               = 1
	)
	code := []unix.SockFilter{{Code: load, K: number}}
	for _, name := range calls {
		c, ok := forbidden[name]
		if !ok {
			return fmt.Errorf("no system call '%s'", name)
		}
		errno := answer
		if name == "clone3" {
			errno = unix.ENOSYS // as all do, so that clone is used instead
		}
		if c.mask == 0 {
			code = append(code, unix.SockFilter{Code: equal, K: uint32(c.number), Jf: 1}, unix.SockFilter{Code: ret, K: refuse | uint32(errno)})
			continue
		}
		code = append(code,
			unix.SockFilter{Code: equal, K: uint32(c.number), Jf: 4},
			unix.SockFilter{Code: load, K: firstArgument},
			unix.SockFilter{Code: anyBit, K: c.mask, Jf: 1},
			unix.SockFilter{Code: ret, K: refuse | uint32(errno)},
			unix.SockFilter{Code: load, K: number})
	}
	code = append(code, unix.SockFilter{Code: ret, K: allow})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return errno
	}
	return nil
}

// Where a filter of system calls forbids what is needed, as in most containers, that is said, and what to do.
func TestRunUnderSeccomp(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	p := newRunPlace(t)
	run := func(rule string, args ...string) (string, error) {
		t.Helper()
		strata := p.strata(append([]string{"run", "--lower", p.base}, args...)...)
		cmd := exec.Command("/proc/self/exe", strata.Args...)
		cmd.Args[1] = strata.Path
		cmd.Env = append(strata.Env, seccompVar+"="+rule)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("EPERM", "--userns", "--", "cat", p.hello); err != nil || out != "hello\n" {
		t.Fatalf("with a filter that forbids nothing: %q, %v", out, err)
	}
	const container = "clone clone3 unshare mount fsopen open_tree move_mount mount_setattr"
	for _, errno := range []string{"EPERM", "ENOSYS"} {
		for _, calls := range []string{container, "clone clone3", "unshare", "mount", "fsopen open_tree move_mount mount_setattr"} {
			for _, how := range [][]string{{"--userns"}, nil} {
				if calls == "clone clone3" && how == nil {
					continue // root needs none of that
				}
				out, err := run(errno+" "+calls, append(how, "--", "true")...)
				if err == nil || !strings.Contains(out, "seccomp filter") || !strings.Contains(out, "whoever starts the container") {
					t.Errorf("%s for %s, with %q: %q, %v", errno, calls, how, out, err)
				}
				if lines := strings.Count(strings.TrimSpace(out), "\n"); lines > 0 {
					t.Errorf("%s for %s, with %q: it takes %d lines to say that: %s", errno, calls, how, lines+1, out)
				}
			}
		}
	}
	if left, err := filepath.Glob(filepath.Join(p.dir, "run/uppers/*")); err != nil || len(left) > 0 {
		t.Errorf("%v, %v are left", left, err)
	}
}
