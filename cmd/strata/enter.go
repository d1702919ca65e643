package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/internal/userns"
	"github.com/strata-nix/strata/stack"
)

// enteredEnv tells a command that it was started again, where the mounts are that it needs.
const enteredEnv = "STRATA_ENTERED"

// enterStack runs the command once more among the mounts of a stack that is up, if they are not
// ours. It tells whether there was such a child, and how it ended.
func enterStack(ctx context.Context, r *stack.Run) (bool, error) {
	ns, err := mount.Namespace()
	if err != nil || ns == r.MountNamespace {
		return false, err
	}
	if os.Getenv(enteredEnv) != "" {
		return false, fmt.Errorf("the mounts of stack '%s' are in another namespace than those of process %d", r.Name, r.Process.PID)
	}
	cwd, err := os.Getwd()
	if err != nil {
		return false, err
	}
	args := []string{fmt.Sprintf("--target=%d", r.Process.PID), "--mount", "--wdns=" + cwd}
	if r.Private {
		args = append(args, "--user", "--preserve-credentials")
	}
	return true, runAgain(ctx, "nsenter", append(args, "--"))
}

// privately runs the command once more in a mount namespace of its own, so that nothing stays
// mounted however it ends; that of a user namespace if this user may not mount. It tells whether
// there was such a child, and how it ended.
func privately(ctx context.Context) (bool, error) {
	if os.Getenv(enteredEnv) != "" {
		return false, nil
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	if mayMount() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	} else {
		if err := userns.Available(); err != nil {
			return true, fmt.Errorf("mounting needs root, or a user namespace: %w", err)
		}
		cmd = userns.Self(context.WithoutCancel(ctx), os.Args[1:]...)
	}
	cmd.Args[0] = os.Args[0]
	return true, runEntered(ctx, cmd)
}

// runAgain runs this program with the same arguments under another one. It is named
// by a descriptor, since the mounts may hide where it is.
func runAgain(ctx context.Context, under string, args []string) error {
	self, err := os.OpenFile("/proc/self/exe", unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer self.Close()
	const selfFD = 3
	args = append(args, fmt.Sprintf("/proc/self/fd/%d", selfFD))
	cmd := exec.Command(under, append(args, os.Args[1:]...)...)
	cmd.ExtraFiles = []*os.File{self} // selfFD
	return runEntered(ctx, cmd)
}

// runEntered runs this program in its other place.
func runEntered(ctx context.Context, cmd *exec.Cmd) error {
	cmd.Env = append(os.Environ(), enteredEnv+"=1", stack.RuntimeEnv+"="+stack.RuntimeDir())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(unix.SIGTERM) }) // fails only if it has ended
	defer stop()
	return childError(cmd.Wait())
}
