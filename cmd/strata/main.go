// Command strata serves and handles layered Nix stores.
//
// The table of its commands is in commands.go, the table of the stores that it
// can open in stores.go, what it takes from nix.conf and the environment in
// config.go. A command is flags in one function and work in another.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/cacheserver"
	"github.com/strata-nix/strata/daemon"
)

// userUmask is the one that we were started with.
var userUmask int

// errTerminated is the cause of a context that SIGTERM ended.
var errTerminated = errors.New("terminated")

func main() {
	// Nobody's umask shall keep others from reading what is in a store.
	userUmask = syscall.Umask(0o022)
	// Writes to a closed pipe become errors, in this process alone: ignoring the
	// signal would be inherited by hooks.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(int(run(context.Background(), os.Args, os.Stdin, os.Stdout, os.Stderr)))
}

// run is main with its surroundings handed in.
func run(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) exitCode {
	ctx, stop := untilSignal(ctx)
	defer stop()
	g := &globals{stdin: stdin, out: newOutput(stdout), stderr: stderr, args0: argv[0]}
	err := execute(ctx, g, argv)
	if g.cfg != nil && !errors.Is(err, daemon.ErrStuck) && !errors.Is(err, cacheserver.ErrStuck) { // else it is in use
		if cerr := g.cfg.end(); err == nil {
			err = cerr
		}
	}
	if g.progress != nil {
		g.progress.close()
	}
	if ferr := g.out.flush(); err == nil {
		err = ferr
	}
	if err != nil && errors.Is(err, context.Canceled) && errors.Is(context.Cause(ctx), errTerminated) {
		err = errTerminated
	}
	code := exitCodeOf(err)
	if child := exitStatus(0); !errors.As(err, &child) {
		g.report(code, err)
	}
	return code
}

func execute(ctx context.Context, g *globals, argv []string) error {
	args, err := joinOptions(asDaemon(argv[0], argv[1:]))
	if err != nil {
		return err
	}
	root := newRootCommand(g, args)
	strictHelp(root)
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

// report is the one place where an error is printed.
func (g *globals) report(code exitCode, err error) {
	switch code {
	case exitOK, exitPipe:
		return
	case exitInterrupted, exitTerminated:
		err = errors.New("interrupted by the user")
	}
	if g.logFormat == "json" {
		g.log().Error(err.Error())
		return
	}
	_, _ = fmt.Fprintf(g.stderr, "error: %v\n", err)
	if code == exitUsage {
		_, _ = fmt.Fprintln(g.stderr, "Try 'strata help' or 'strata COMMAND --help'.")
	}
}

// untilSignal gives a context that ends with Ctrl-C or SIGTERM. The second
// signal has its default effect: the process is gone at once.
func untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) { // as nohup has them
			signal.Notify(signals, s)
		}
	}
	h := &hangups{signals: signals, claimed: make(chan struct{}, 1)}
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case s := <-signals:
				if s == syscall.SIGHUP && h.pass() {
					continue
				}
				if s == syscall.SIGINT {
					cancel(context.Canceled)
				} else {
					cancel(errTerminated)
				}
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	return context.WithValue(ctx, hangupsKey{}, h), func() { cancel(nil) }
}

// hangups are the signals SIGHUP, to which some commands give a meaning of their own.
type hangups struct {
	signals chan os.Signal
	taken   atomic.Bool
	claimed chan struct{}
}

type hangupsKey struct{}

// pass hands one to the command that has claimed them, if one has.
func (h *hangups) pass() bool {
	if !h.taken.Load() {
		return false
	}
	select {
	case h.claimed <- struct{}{}:
	default: // the last one has not been heard yet
	}
	return true
}

// onHangup claims SIGHUP, which ends the command's context otherwise.
func onHangup(ctx context.Context) <-chan struct{} {
	h, ok := ctx.Value(hangupsKey{}).(*hangups)
	if !ok {
		return nil
	}
	h.taken.Store(true)
	signal.Notify(h.signals, syscall.SIGHUP)
	return h.claimed
}

// isTerminal tells whether a person sees what is written to w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil && os.Getenv("TERM") != "dumb"
}

// levelOf is what a person wants to be told, from -v and --quiet.
func levelOf(verbose int, quiet bool) activity.Level {
	level := activity.Info + activity.Level(max(verbose, 0))
	if quiet {
		level = activity.Warn
	}
	return min(level, activity.Vomit)
}
