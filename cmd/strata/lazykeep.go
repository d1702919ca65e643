package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/stack"
)

type lazyKeepOptions struct {
	lazyBound
	state, target string
	takeOver      bool
}

func newLazyKeepCommand(g *globals) *cobra.Command {
	var o lazyKeepOptions
	cmd := &cobra.Command{
		Use:    "keep",
		Short:  "Keep the mount of a lazy lower store",
		Hidden: true, // it is started by stacks
		Args:   noArgs,
		RunE:   runner(func(ctx context.Context, _ []string) error { return runLazyKeep(ctx, g, o) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.state, "state", "", "what lasts as long as the mount is in `DIR`")
	f.StringVar(&o.target, "target", "", "the mount is at `DIR`")
	f.BoolVar(&o.takeOver, "take-over", false, "the mount was kept by a process that is gone")
	o.lazyBound.addFlags(f)
	return cmd
}

func runLazyKeep(ctx context.Context, g *globals, o lazyKeepOptions) error {
	ref, err := parseReference(g.storeURI)
	if err != nil || o.state == "" || o.target == "" {
		return &usageError{errors.Join(errors.New("lazy keep needs --state, --target and --store"), err)}
	}
	conn := fusefs.NewConn(os.NewFile(fuseFD, "/dev/fuse"))
	unix.CloseOnExec(fuseFD)
	defer conn.Close()
	if err := os.Chdir("/"); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o.watch(cancel)
	lock, err := flock.Open(filepath.Join(o.state, keeperLock))
	if err != nil {
		return err
	}
	defer lock.Close()
	if free, err := lock.Try(flock.Exclusive); err != nil || !free {
		if err == nil {
			g.log().Info(fmt.Sprintf("'%s' is kept already", o.target))
		}
		return err
	}
	c, err := g.config()
	if err != nil {
		return err
	}
	m := &lazyMount{Target: o.target, Store: ref.String(), PID: os.Getpid(), Believes: c.belief(), state: o.state}
	if err := m.write(); err != nil {
		return err
	}
	if forget, err := m.link(); err != nil {
		g.log().Warn(fmt.Sprintf("'strata lazy status' will not find '%s': %v", o.target, err))
	} else {
		defer forget()
	}
	return fusefs.Keep(ctx, conn, fusefs.KeepOptions{Command: o.pass(g.lazyServeCommand(ref, o.state, "")), TakeOver: o.takeOver, Replace: onHangup(ctx), Log: g.log()})
}

// keeperLock is the file in a mount's state that is locked by who keeps it, so that nobody else does as well.
const keeperLock = "keeper"

// link makes a mount be found whose state is with its stack.
func (m *lazyMount) link() (forget func(), err error) {
	if err := os.MkdirAll(lazyPlaces(), 0o755); err != nil {
		return nil, err
	}
	name := filepath.Join(lazyPlaces(), m.linkName())
	_ = os.Remove(name) // of a process with the same number
	return func() { _ = os.Remove(name) }, os.Symlink(m.state, name)
}

// lazyLog is the file in a mount's state that its processes log to.
const lazyLog = "log"

// serveLazy has the mount of a lazy lower kept and served by processes of their own.
func (g *globals) serveLazy(_ context.Context, m stack.LazyMount) error {
	log, err := os.OpenFile(filepath.Join(m.State, lazyLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644) //nolint:gosec // no secrets
	if err != nil {
		return err
	}
	defer log.Close()
	args := append([]string{"lazy", "keep", "--store", m.Store.String(), "--state", m.State, "--target", m.Target}, g.again()...)
	if m.TakeOver {
		args = append(args, "--take-over")
	}
	cmd := exec.Command(executable(), args...)
	cmd.ExtraFiles = []*os.File{m.Conn}
	if m.Private {
		ours, theirs, err := os.Pipe()
		if err != nil {
			return err
		}
		g.alive = append(g.alive, theirs) // until this process ends
		defer ours.Close()
		bind(cmd, ours, g.supervisor)
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("serving a lazy lower: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it says itself what is wrong
		close(ended)
	}()
	if !m.Private {
		g.keepers = append(g.keepers, ended)
	}
	if err := keepLower(m); err != nil {
		g.log().Warn(fmt.Sprintf("'%s' will not outlive the service: %v", m.Target, err))
	}
	return nil
}

// keepersEnd is how long keepers of mounts that are gone may take to end.
const keepersEnd = 3 * time.Second

// awaitKeepers waits until those have ended who kept mounts that are gone: until then they write to the cache.
func (g *globals) awaitKeepers() {
	late := time.After(keepersEnd)
	for _, ended := range g.keepers {
		select {
		case <-ended:
		case <-late:
			return
		}
	}
}

// executable is this program by its path, so that a newer one takes over when it is started again.
func executable() string {
	path, err := os.Executable()
	if err != nil {
		path = os.Args[0]
	}
	return strings.TrimSuffix(path, " (deleted)")
}

// again are the global flags for a process of the same program.
func (g *globals) again() []string {
	args := []string{"--log-format", g.logFormat}
	for _, o := range g.options {
		name, value, _ := strings.Cut(o, "=")
		args = append(args, "--option", name, value)
	}
	for range g.verbose {
		args = append(args, "-v")
	}
	if g.quiet {
		args = append(args, "--quiet")
	}
	return args
}
