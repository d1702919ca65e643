package fusefs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// KeepOptions say how a connection is kept.
type KeepOptions struct {
	// Command makes the command of a process that serves the connection, which it finds open as
	// descriptor 3, before its other ExtraFiles. The process ends well when the mount is gone.
	Command func(Takeover) *exec.Cmd
	// TakeOver tells that somebody served the connection before.
	TakeOver bool
	// Replace, if not nil, is received from when the process is to give way to a new one, of
	// a new version of the program for instance.
	Replace <-chan struct{}
	// Log gets who comes and goes; nil: nobody does.
	Log *slog.Logger
}

// Takeover tells a process that serves a connection about those before it.
type Takeover struct {
	// After tells that there was one, see [ServeOptions].
	After bool
	// Failing tells that several in a row have ended soon after they began. What each of them
	// was asked again may be why.
	Failing bool
}

// How long a process that ended at once is not started again, at first and at last;
// and how long one may take to end that is to give way.
const (
	keepPause   = 50 * time.Millisecond
	keepPauseUp = 5 * time.Second
	keepWell    = 10 * time.Second
	keepEnd     = 3 * time.Second
	// keepFailing is how many have to end soon in a row.
	keepFailing = 4
)

// Keep has processes serve a connection, one after the other, until the mount is gone or ctx ends; then
// the process is told to end. Programs that use the mount do not notice when a process is
// replaced or killed, but for the time that it takes.
//
// Whoever keeps a connection must have no file of its mount open: starting a process closes
// them in it, which can wait for an answer that only that process would give.
func Keep(ctx context.Context, c *Conn, o KeepOptions) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	start, pause, soon := Takeover{After: o.TakeOver}, keepPause, 0
	for {
		began := time.Now()
		err := keepOne(ctx, c, o, start)
		switch {
		case err == nil, ctx.Err() != nil:
			return nil //nolint:nilerr // it was told to end
		case errors.Is(err, errReplaced):
			o.Log.Info("the process that serves the mount is replaced")
		case c.AwaitEnd(0): // whatever it was that kept the process from seeing that
			return nil
		default:
			soon++
			if time.Since(began) > keepWell || killed(err) {
				pause, soon = keepPause, 0
			}
			o.Log.Error(fmt.Sprintf("the process that serves the mount has ended: %v; another one takes over", err))
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil
			}
			pause = min(2*pause, keepPauseUp)
		}
		start = Takeover{After: true, Failing: soon >= keepFailing}
	}
}

// killed tells whether a process was ended by somebody, rather than by a mistake of its own.
func killed(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	ws, ok := exit.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && (ws.Signal() == unix.SIGKILL || ws.Signal() == unix.SIGTERM || ws.Signal() == unix.SIGINT)
}

var errReplaced = errors.New("replaced")

// keepOne runs one process to its end.
func keepOne(ctx context.Context, c *Conn, o KeepOptions, start Takeover) error {
	cmd := o.Command(start)
	cmd.ExtraFiles = append([]*os.File{c.dev}, cmd.ExtraFiles...)
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var why error
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		why = ctx.Err()
	case <-o.Replace:
		why = errReplaced
	}
	_ = cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-ended:
	case <-time.After(keepEnd):
		_ = cmd.Process.Kill()
		<-ended
	}
	return why
}
