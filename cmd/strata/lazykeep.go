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

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/stack"
)

// Descriptors of a process that keeps the mount of a lazy lower: fuseFD, and one that ends when
// the process has ended that started it, if it matters.
const parentFD = 4

type lazyKeepOptions struct {
	state, target string
	withParent    bool
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
	f.BoolVar(&o.withParent, "with-parent", false, "end with the process that started this one")
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
	if o.withParent {
		unix.CloseOnExec(parentFD)
		parent := os.NewFile(parentFD, "parent")
		go func() {
			_, _ = io.Copy(io.Discard, parent) // it is never written to
			cancel()
		}()
	}
	m := &lazyMount{Target: o.target, Store: ref.String(), PID: os.Getpid(), state: o.state}
	if err := m.write(); err != nil {
		return err
	}
	if forget, err := m.link(); err != nil {
		g.log().Warn(fmt.Sprintf("'strata lazy status' will not find '%s': %v", o.target, err))
	} else {
		defer forget()
	}
	return fusefs.Keep(ctx, conn, fusefs.KeepOptions{Command: g.lazyServeCommand(ref, o.state, ""), Replace: onHangup(ctx), Log: g.log()})
}

// link makes a mount be found whose state is with its stack.
func (m *lazyMount) link() (forget func(), err error) {
	if err := os.MkdirAll(lazyPlaces(), 0o755); err != nil {
		return nil, err
	}
	name := filepath.Join(lazyPlaces(), fmt.Sprintf("stack-%d", os.Getpid()))
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
	files := []*os.File{m.Conn}
	if m.Private {
		ours, theirs, err := os.Pipe()
		if err != nil {
			return err
		}
		g.alive = append(g.alive, theirs) // until this process ends
		defer ours.Close()
		files, args = append(files, ours), append(args, "--with-parent")
	}
	cmd := exec.Command(executable(), args...)
	cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = files, log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("serving a lazy lower: %w", err)
	}
	go func() { _ = cmd.Wait() }() // it says itself what is wrong
	return nil
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
