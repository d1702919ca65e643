package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/userns"
	"github.com/strata-nix/strata/stack"
)

// upChildEnv tells a 'strata up' that it was started by another one, and how.
// readyFD is where one in the background says that it is ready.
const (
	upChildEnv = "STRATA_UP_CHILD"
	foreground = "foreground"
	background = "background"
	readyFD    = 3
)

// backgroundLog is the file in the upper's directory that a stack in the background
// logs to.
const backgroundLog = "strata.log"

// startAgain runs the program once more, in a user namespace if that is needed
// to mount, and in the background if that is wanted. It returns when the child is
// ready, if it is in the background, and else when it has ended. It tells whether
// there was a child.
func startAgain(ctx context.Context, g *globals, cfg stack.Config, detach bool) (bool, error) {
	private := !mayMount()
	if !private && !detach {
		return false, nil
	}
	args := os.Args[1:]
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if private {
		if err := userns.Available(); err != nil {
			return true, fmt.Errorf("mounting needs root, or a user namespace: %w", err)
		}
		cmd = userns.Self(context.WithoutCancel(ctx), args...)
	}
	cmd.Env = append(os.Environ(), stack.RuntimeEnv+"="+stack.RuntimeDir())
	cmd.Stderr = os.Stderr
	if detach {
		cmd.Env = append(cmd.Env, upChildEnv+"="+background)
		return true, startInBackground(ctx, cmd, g, cfg)
	}
	// Ctrl-C reaches this process, which hands it on once.
	cmd.SysProcAttr.Setpgid = true
	cmd.Env = append(cmd.Env, upChildEnv+"="+foreground)
	cmd.Stdout = os.Stdout
	return true, runInForeground(ctx, cmd)
}

// mayMount tells whether this process has the right to mount.
func mayMount() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil {
		return os.Geteuid() == 0
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

func runInForeground(ctx context.Context, cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(unix.SIGTERM) }) // fails only if it has ended
	defer stop()
	return childError(cmd.Wait())
}

// childError is how a child ended that has told why itself.
func childError(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	code := exit.ExitCode()
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	return exitStatus(code)
}

// startInBackground returns when the child says that it is ready, or has ended.
func startInBackground(ctx context.Context, cmd *exec.Cmd, g *globals, cfg stack.Config) error {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd.ExtraFiles = []*os.File{theirs} // readyFD
	cmd.SysProcAttr.Setsid = true
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(unix.SIGTERM) }) // fails only if it has ended
	text, err := io.ReadAll(ready)
	stop()
	if err != nil {
		return err
	}
	if len(text) == 0 {
		if err := errors.Join(ctx.Err(), childError(cmd.Wait())); err != nil {
			return err
		}
		return errors.New("the stack went down before it was ready")
	}
	_, err = fmt.Fprintf(g.out, "%sIt logs to %s\n", text, filepath.Join(cfg.Upper.Dir, backgroundLog))
	return err
}

// tellReady says that a stack is ready: to whoever started us in the background,
// who wants no more of us on the terminal, or on standard output.
func tellReady(g *globals, r *stack.Run, inBackground bool) error {
	text := printReady(r)
	if !inBackground {
		if _, err := io.WriteString(g.out, text); err != nil {
			return err
		}
		return g.out.flush()
	}
	unix.CloseOnExec(readyFD)
	pipe := os.NewFile(readyFD, "ready")
	defer pipe.Close()
	log, err := os.OpenFile(filepath.Join(r.Dir, backgroundLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644) //nolint:gosec // no secrets
	if err != nil {
		return err
	}
	defer log.Close()
	if _, err := io.WriteString(pipe, text); err != nil {
		return err
	}
	for _, fd := range []int{1, 2} {
		if err := unix.Dup3(int(log.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return nil
}

// shellWord spells a word for a shell.
func shellWord(s string) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._/:=,@%+"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
