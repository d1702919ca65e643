package output

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/strata-nix/strata/activity"
)

// maxHookOutput bounds what is kept of what a diff hook says; bytes.
const maxHookOutput = 64 << 20

// hookGrace is how long children of a diff hook may go on talking when it has ended.
const hookGrace = 5 * time.Second

// runDiffHook tells the diff hook of two outputs, and others what it says. That it
// fails changes nothing.
func (r *registration) runDiffHook(ctx context.Context, old, now string) {
	fail := func(err error) {
		activity.Errorf(ctx, "diff hook execution failed: %v", err)
	}
	path, err := exec.LookPath(r.o.DiffHook)
	if err != nil {
		fail(err)
		return
	}
	cmd := exec.CommandContext(ctx, path, old, now, r.drv(), r.job.BuildDir) //nolint:gosec // a setting
	cmd.Args[0] = r.o.DiffHook
	cmd.Dir = "/"
	cmd.WaitDelay = hookGrace
	if b := r.o.Builder; b != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: b.UID, Gid: b.GID}}
	}
	said := &limited{max: maxHookOutput}
	cmd.Stdout = said
	cmd.Stderr = said
	err = cmd.Run()
	if text := strings.TrimRight(said.String(), "\n"); text != "" {
		activity.Logf(ctx, activity.Error, "%s", text)
	}
	if err != nil {
		fail(err)
	}
}

// limited is a buffer that swallows what is too much.
type limited struct {
	bytes.Buffer
	max int
}

func (l *limited) Write(p []byte) (int, error) {
	if room := l.max - l.Len(); room > 0 {
		l.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
