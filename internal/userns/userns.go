// Package userns runs a command in new user and mount namespaces, where an
// ordinary user may mount.
//
// The command is root there: its uid and gid 0 are the caller's, all others are
// unmapped. It has every capability over its own namespaces and none outside.
// What it may mount: overlay with userxattr, tmpfs, bind mounts, FUSE where
// /dev/fuse can be opened; no images. Its mounts end with its last process.
//
// What will bite: files of unmapped owners show as nobody and cannot be
// copied up by an overlay; supplementary groups cannot be dropped (setgroups is
// denied, as the kernel demands of an unprivileged mapping); /proc and /sys are
// those of the outside.
package userns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// Command is exec.CommandContext for a command that runs as root of a new user
// namespace, in a new mount namespace from which no mount event gets out and
// into which none gets in. The caller may change everything but the namespace
// fields of SysProcAttr.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = attributes()
	return cmd
}

// Self is [Command] for the running program itself.
func Self(ctx context.Context, args ...string) *exec.Cmd {
	// The link leads to the very file that runs, also when its path was replaced
	// or cannot be searched by this user.
	cmd := Command(ctx, "/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	return cmd
}

func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		// The mount namespace is unshared by the child, so that the runtime also
		// makes all mounts private there.
		Cloneflags:                 syscall.CLONE_NEWUSER,
		Unshareflags:               syscall.CLONE_NEWNS,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		GidMappingsEnableSetgroups: false,
	}
}

// UnavailableError says that no user namespace can be made, and why.
type UnavailableError struct {
	Reasons []string // likely ones, in the order of how well they explain it
	Err     error    // what the kernel answered
}

func (e *UnavailableError) Error() string {
	s := fmt.Sprintf("cannot make a user and mount namespace: %v", e.Err)
	if len(e.Reasons) > 0 {
		s += ": " + strings.Join(e.Reasons, "; ")
	}
	return s
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// Available reports whether [Command] can work here; the error is an
// [*UnavailableError]. It finds out by making the namespaces and running
// nothing in them, which takes about a millisecond.
func Available() error {
	// The namespaces are made and the mounts made private before the exec, so
	// an exec that finds no file means that all the rest went well.
	const nothing = "/proc/self/nothing-of-this-name"
	pid, err := syscall.ForkExec(nothing, []string{nothing}, &syscall.ProcAttr{Sys: attributes()})
	if err == nil { // cannot be
		syscall.Wait4(pid, nil, 0, nil)
		return nil
	}
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return &UnavailableError{Reasons: reasons(err, "/"), Err: err}
}

// switches are the settings that forbid user namespaces, with the value that
// does. Paths are below a root, so that tests can make their own.
var switches = []struct{ file, forbids, advice string }{
	{"proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces is 0; root can set it to some thousand"},
	{"proc/sys/user/max_mnt_namespaces", "0", "sysctl user.max_mnt_namespaces is 0; root can set it to some thousand"},
	{"proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone is 0 (Debian); root can set it to 1"},
	{"proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
		"sysctl kernel.apparmor_restrict_unprivileged_userns is 1 (Ubuntu): the program needs an AppArmor profile that allows userns"},
}

const filterAdvice = "a seccomp filter is in force, as in most containers: it may forbid unshare, clone or mount, and whoever starts the container can allow them"

// Explain adds to the error of making namespaces or mounts what may forbid them, if it looks like that.
func Explain(err error) error {
	if !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.ENOSYS) || !filtered("/proc/self/status") {
		return err
	}
	var told *UnavailableError
	if errors.As(err, &told) {
		return err
	}
	return fmt.Errorf("%w: %s", err, filterAdvice)
}

func reasons(err error, root string) []string {
	var out []string
	for _, s := range switches {
		b, rerr := os.ReadFile(root + s.file)
		if rerr == nil && strings.TrimSpace(string(b)) == s.forbids {
			out = append(out, s.advice)
		}
	}
	if _, serr := os.Stat(root + "proc/self/ns/user"); errors.Is(serr, os.ErrNotExist) {
		out = append(out, "this kernel has no user namespaces (CONFIG_USER_NS), or /proc is not mounted")
	}
	if filtered(root + "proc/self/status") {
		out = append(out, filterAdvice)
	}
	switch {
	case len(out) > 0 && errors.Is(err, syscall.ENOSPC): // as with a limit of 0
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EUSERS):
		out = append(out, "the limit on the number or the nesting (32) of namespaces is reached")
	case errors.Is(err, syscall.EPERM) && len(out) == 0:
		out = append(out, "the process may be in a chroot, or a security module forbids it")
	}
	return out
}

// filtered reports whether the process runs under a seccomp filter (mode 2).
func filtered(status string) bool {
	b, err := os.ReadFile(status)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "Seccomp:"); ok {
			return strings.TrimSpace(v) == "2"
		}
	}
	return false
}
