package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/daemon"
	"github.com/strata-nix/strata/store"
)

type daemonOptions struct {
	socket         string
	stdio          bool
	serve, write   bool
	forceTrusted   bool
	forceUntrusted bool
	maxConnections int
	drainTimeout   time.Duration
	waitForLowers  time.Duration
}

func newDaemonCommand(g *globals) *cobra.Command {
	var o daemonOptions
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Serve a store to Nix's commands, as nix-daemon does",
		Long: `Serve a store on a unix socket, in the protocol that Nix's commands speak with
nix-daemon. Without flags it takes what nix-daemon would take: nix.conf and the
NIX_* variables say which store, where the socket is (by default
/nix/var/nix/daemon-socket/socket), who may connect and who is trusted. Started
by socket activation of systemd, it serves the sockets that it was given.

SIGTERM ends it: operations that are under way may finish for some seconds.`,
		Example: "  strata daemon --store 'local?root=/srv/base' --socket /run/base.sock",
		Version: version,
		Args:    noArgs,
		RunE:    runner(func(ctx context.Context, _ []string) error { return runDaemon(ctx, g, o) }),
	}
	cmd.SetVersionTemplate("nix-daemon (Nix) {{.Version}}\n") // scripts take the third word
	f := cmd.Flags()
	f.StringVar(&o.socket, "socket", "", "listen on the unix socket at `PATH`")
	f.BoolVar(&o.stdio, "stdio", false, "serve one connection on standard input and output, as ssh-ng:// stores want it")
	f.BoolVar(&o.serve, "serve", false, "serve one connection on standard input and output in the older protocol, as ssh:// stores want it")
	f.BoolVar(&o.write, "write", false, "with --serve: allow it to add and to build")
	f.BoolVar(&o.forceTrusted, "force-trusted", false, "trust everybody who can connect")
	f.BoolVar(&o.forceUntrusted, "force-untrusted", false, "trust nobody")
	f.IntVar(&o.maxConnections, "max-connections", daemon.DefaultMaxConnections, "serve at most `N` connections at once; more have to wait")
	f.DurationVar(&o.drainTimeout, "drain-timeout", daemon.DefaultDrainTimeout, "how long operations may go on after SIGTERM")
	f.DurationVar(&o.waitForLowers, "wait-for-lowers", 0, "wait so long for the lower stores of a layered store to be mounted")
	cmd.MarkFlagsMutuallyExclusive("force-trusted", "force-untrusted")
	cmd.MarkFlagsMutuallyExclusive("socket", "stdio", "serve")
	// What scripts pass to nix-daemon and that changes nothing here: the operations
	// of a connection on standard input are always performed by this process.
	for _, name := range []string{"daemon", "default-trust", "process-ops"} {
		f.Bool(name, false, "accepted because nix-daemon does")
		_ = f.MarkHidden(name) // it exists
	}
	return cmd
}

func (o daemonOptions) force() store.Trust {
	switch {
	case o.forceTrusted:
		return store.Trusted
	case o.forceUntrusted:
		return store.NotTrusted
	}
	return store.TrustUnknown
}

func runDaemon(ctx context.Context, g *globals, o daemonOptions) (err error) {
	if o.write && !o.serve {
		return &usageError{errors.New("--write goes with --serve")}
	}
	if o.maxConnections <= 0 || o.drainTimeout <= 0 || o.waitForLowers < 0 {
		return &usageError{errors.New("--max-connections and --drain-timeout must be positive, and --wait-for-lowers not negative")}
	}
	c, err := g.config()
	if err != nil {
		return err
	}
	log := g.log()
	for _, text := range c.passedOver {
		log.Warn(text)
	}
	socket := c.socket
	if o.socket != "" {
		if socket, err = filepath.Abs(o.socket); err != nil {
			return err
		}
	}
	if o.stdio || o.serve {
		socket = ""
	}
	ref, err := c.served(ctx, g.storeURI, socket)
	if err != nil {
		return &usageError{err}
	}
	c.waitForLowers = o.waitForLowers
	st, err := c.open(ctx, ref)
	if err != nil {
		return fmt.Errorf("cannot serve store '%s': %w", ref, err)
	}
	defer func() {
		if errors.Is(err, daemon.ErrStuck) {
			return // the store is in use
		}
		err = errors.Join(err, st.Close())
	}()
	defer warm(ctx, st)()
	s := daemon.New(daemon.Options{
		Store:               st,
		Version:             version,
		Users:               c.users,
		TrustedSubstituters: c.trustedSubstituters,
		Force:               o.force(),
		MaxConnections:      o.maxConnections,
		DrainTimeout:        o.drainTimeout,
		Log:                 log,
	})
	switch {
	case o.stdio:
		return s.ServeStdio(ctx, os.Stdin, os.Stdout)
	case o.serve:
		return s.ServeLegacy(activity.With(ctx, newBuildLines(os.Stderr)), os.Stdin, os.Stdout, o.write)
	}
	listeners, err := listen(socket)
	if err != nil {
		return err
	}
	for _, l := range listeners {
		if l.Replaced {
			log.Warn(fmt.Sprintf("another process was listening on '%s' and lost it to this one", socket))
		}
	}
	// A daemon must not keep anything from being unmounted.
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return s.Serve(ctx, listeners...)
}

// listen takes the sockets of systemd, or makes one.
func listen(socket string) ([]*daemon.Listener, error) {
	listeners, err := daemon.Activated()
	if err != nil || len(listeners) > 0 {
		return listeners, err
	}
	l, err := daemon.Listen(socket)
	if err != nil {
		return nil, err
	}
	return []*daemon.Listener{l}, nil
}
