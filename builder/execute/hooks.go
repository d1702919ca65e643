package execute

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/storepath"
)

// maxHookOutput is how much of what the pre-build hook says is listened to, in bytes.
const maxHookOutput = 16 << 20

// hookPatience is how long children of a hook may keep its output open after it.
const hookPatience = 5 * time.Second

// hook prepares a program of the administrator that runs as this process's user.
// It and its children are killed when ctx ends.
func hook(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = hookPatience
	return cmd
}

// runHook runs a hook, and says in upstream's words how it failed.
func runHook(ctx context.Context, cmd *exec.Cmd) error {
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return nil
	case errors.As(err, &exit):
		status := exit.Sys().(syscall.WaitStatus) //nolint:forcetypeassert // on Linux it is
		if status.Signaled() {
			return fmt.Errorf("program '%s' %s", cmd.Path, ended(0, status.Signal()))
		}
		return fmt.Errorf("program '%s' %s", cmd.Path, ended(status.ExitStatus(), 0))
	}
	return fmt.Errorf("executing '%s': %w", cmd.Path, err)
}

// preBuildHook asks the administrator's program what else the sandbox of this
// derivation is to show. root is the directory that becomes the sandbox.
func (b *build) preBuildHook(ctx context.Context, root string) ([]SandboxPath, error) {
	program := b.o.PreBuildHook
	if program == "" {
		return nil, nil
	}
	activity.Logf(ctx, activity.Chatty, "executing pre-build hook '%s'", program)
	var out bytes.Buffer
	cmd := hook(ctx, program, b.dir.Print(b.job.DrvPath), root)
	cmd.Stdout = &capped{w: &out, left: maxHookOutput}
	cmd.Stderr = &hookLines{line: func(s string) { activity.Logf(ctx, activity.Error, "%s", s) }}
	if err := runHook(ctx, cmd); err != nil {
		return nil, err
	}
	return parsePreBuildHook(out.String())
}

// parsePreBuildHook reads what the hook says: a command in a line, then its
// arguments, then an empty line.
func parsePreBuildHook(text string) (paths []SandboxPath, err error) {
	inPaths := false
	for line := range strings.Lines(text) {
		line, whole := strings.CutSuffix(line, "\n")
		switch {
		case !whole: // upstream does not see it either
		case !inPaths && (line == "extra-sandbox-paths" || line == "extra-chroot-dirs"):
			inPaths = true
		case !inPaths:
			return nil, fmt.Errorf("unknown pre-build hook command '%.200s'", line)
		case line == "":
			inPaths = false
		default:
			target, source, ok := strings.Cut(line, "=")
			if !ok {
				source = target
			}
			paths = append(paths, SandboxPath{Target: target, Source: source})
		}
	}
	return paths, nil
}

// postBuildHook tells the administrator's program what has been built.
func (b *build) postBuildHook(ctx context.Context, outputs []storepath.Path) error {
	return PostBuildHook(ctx, b.o, b.dir, b.job.DrvPath, outputs)
}

// PostBuildHook tells the administrator's program what has been built, if there is
// one ("post-build-hook"). Its error does not undo that.
func PostBuildHook(ctx context.Context, o *Options, dir storepath.Dir, drvPath storepath.Path, outputs []storepath.Path) error {
	program := o.PostBuildHook
	if program == "" {
		return nil
	}
	drv := dir.Print(drvPath)
	ctx, act := activity.Start(ctx, activity.Talkative, activity.PostBuildHook,
		fmt.Sprintf("running post-build-hook '%s'", program), activity.Text(drv))
	defer act.Stop()
	cmd := hook(ctx, program)
	cmd.Env = append(os.Environ(),
		"DRV_PATH="+drv,
		"OUT_PATHS="+strings.Join(dir.PrintAll(storepath.SortUnique(outputs)), " "),
		"NIX_CONFIG="+o.Config)
	lines := &hookLines{line: func(s string) { act.Result(activity.PostBuildLogLine, activity.Text(s)) }}
	cmd.Stdout, cmd.Stderr = lines, lines
	defer lines.flush()
	return runHook(ctx, cmd)
}

// capped passes on so many bytes, and fails after that.
type capped struct {
	w    io.Writer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	if len(p) > c.left {
		return 0, errors.New("too much output")
	}
	c.left -= len(p)
	return c.w.Write(p)
}

// maxHookLine is how many bytes of a hook's line are kept together.
const maxHookLine = 64 << 10

// hookLines passes on the lines of a hook's output.
type hookLines struct {
	line func(string)
	rest []byte
}

func (h *hookLines) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		h.rest = append(h.rest, p[:i]...)
		h.line(string(h.rest))
		h.rest, p = h.rest[:0], p[i+1:]
	}
	h.rest = append(h.rest, p...)
	if len(h.rest) > maxHookLine {
		h.flush()
	}
	return n, nil
}

// flush passes on a line that has no end.
func (h *hookLines) flush() {
	if len(h.rest) > 0 {
		h.line(string(h.rest))
		h.rest = h.rest[:0]
	}
}
