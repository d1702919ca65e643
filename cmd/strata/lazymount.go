package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/store"
)

type lazyMountOptions struct {
	lazyFlags
	socket string
}

func newLazyMountCommand(g *globals) *cobra.Command {
	var o lazyMountOptions
	cmd := &cobra.Command{
		Use:   "mount URI... DIR",
		Short: "Show a binary cache as a read-only directory",
		Long: `Show one or more binary caches as a read-only directory of store objects, until
SIGTERM or Ctrl-C; programs that use it then get errors after a moment. What the
caches have is there; 'ls' lists what somebody has looked at. Objects count that a
key of trusted-public-keys has signed, or that are from a cache with the parameter
trusted=true.

This process keeps the mount, and another one serves it. That one may be killed
or, by SIGHUP, replaced by one of a newer program: programs that use the mount wait
for a moment and go on.

As a service of systemd with FileDescriptorStoreMax, the mount stays when the service
is restarted; programs wait meanwhile.

With --socket, store clients learn there what is valid: Nix 2.34 can have it for a
lower store, 'local-overlay://?lower-store=unix://PATH?real=DIR&…'.`,
		Example: `  strata lazy mount https://cache.nixos.org /mnt/cache
  strata lazy mount 'file:///srv/cache?trusted=true' https://cache.nixos.org ./store`,
		Args: atLeastTwo,
		RunE: runner(func(ctx context.Context, args []string) error { return runLazyMount(ctx, g, o, args) }),
	}
	o.add(cmd.Flags())
	cmd.Flags().StringVar(&o.socket, "socket", "", "answer store clients on the socket at `PATH`")
	return cmd
}

func runLazyMount(ctx context.Context, g *globals, o lazyMountOptions, args []string) error {
	from := args[:len(args)-1]
	dir, err := filepath.Abs(args[len(args)-1])
	if err != nil {
		return err
	}
	ref, err := o.reference(from, dir)
	if err != nil {
		return err
	}
	if o.socket != "" {
		if o.socket, err = filepath.Abs(o.socket); err != nil {
			return err
		}
	}
	if err := checkLazy(ctx, g, ref); err != nil {
		return err
	}
	if !mayMount() {
		return errors.New("mounting needs root, or a user namespace: 'unshare --user --map-root-user --mount strata lazy mount …'")
	}
	return keepLazy(ctx, g, ref, dir, o.socket)
}

// checkLazy finds what is wrong with a store before anything is mounted.
func checkLazy(ctx context.Context, g *globals, ref store.Reference) error {
	c, err := g.config()
	if err != nil {
		return err
	}
	st, err := c.openLazy(ctx, ref)
	if err != nil {
		return err
	}
	return st.Close()
}

// keepLazy mounts a lazy store and has it served until ctx ends. If systemd keeps descriptors for us, the mount stays
// then, for the next process.
func keepLazy(ctx context.Context, g *globals, ref store.Reference, dir, socket string) error {
	c, err := g.config()
	if err != nil {
		return err
	}
	m, conn, err := storedMount(ref, dir)
	if err != nil {
		g.log().Warn(err.Error())
	}
	after := conn != nil
	if !after {
		if m, conn, err = mountLazy(ref, dir); err != nil {
			return err
		}
	}
	defer conn.Close()
	m.PID, m.Stored, m.Believes = os.Getpid(), false, c.belief()
	if hasFDStore() {
		if err := m.storeFD(conn); err != nil {
			g.log().Warn(fmt.Sprintf("the mount will not outlive this process: %v", err))
		} else {
			m.Stored = true
		}
	}
	stored := m.Stored
	if err := m.write(); err != nil {
		return errors.Join(err, unix.Unmount(dir, unix.UMOUNT_NOFOLLOW), os.RemoveAll(m.state))
	}
	ended, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		if stored || !takeMountAway(g, conn, dir) {
			cancel()
		}
	})
	defer stop()
	replace := onHangup(ctx)
	if err := tellMounted(g, dir); err != nil { // nobody waits for it
		if stored {
			err = errors.Join(err, m.dropFD())
		}
		return errors.Join(err, unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH), os.RemoveAll(m.state))
	}
	err = fusefs.Keep(ended, conn, fusefs.KeepOptions{
		Command: g.lazyServeCommand(ref, m.state, socket), TakeOver: after, Replace: replace, Log: g.log(),
	})
	if stored && ctx.Err() != nil {
		return err // the next process goes on
	}
	if stored {
		err = errors.Join(err, m.dropFD())
	}
	return errors.Join(err, os.RemoveAll(m.state))
}

// detachedGrace is for how long those are still served who use a mount that has been taken away.
const detachedGrace = 2 * time.Second

// takeMountAway unmounts what this process keeps, and tells whether nobody uses it any more, so that its server ends by itself. A
// shell with its working directory there, or another mount namespace that has a copy of the mount, may go on for ever.
func takeMountAway(g *globals, conn *fusefs.Conn, dir string) (unused bool) {
	err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil {
		g.log().Error(fmt.Sprintf("unmounting '%s': %v", dir, err))
		return false
	}
	if conn.AwaitEnd(detachedGrace) {
		return true
	}
	g.log().Warn(fmt.Sprintf("'%s' is unmounted, and still in use, by programs or in another mount namespace: they get errors from now on", dir))
	return false
}

// mountLazy makes a mount, and the directory for what lasts as long as it.
func mountLazy(ref store.Reference, dir string) (*lazyMount, *fusefs.Conn, error) {
	if err := os.MkdirAll(lazyPlaces(), 0o755); err != nil {
		return nil, nil, err
	}
	state, err := os.MkdirTemp(lazyPlaces(), "mount-")
	if err != nil {
		return nil, nil, err
	}
	if err := unmountDead(dir); err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(state))
	}
	conn, _, err := fusefs.Mount(fusefs.MountOptions{Target: dir, Name: "strata-lazy"})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(state))
	}
	return &lazyMount{Target: dir, Store: ref.String(), state: state}, conn, nil
}

// unmountDead takes away a mount whose connection is gone for good, as a service leaves it that was
// stopped while systemd kept its descriptors.
func unmountDead(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); !errors.Is(err, unix.ENOTCONN) {
		return nil //nolint:nilerr // mounting says what else is wrong
	}
	if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting '%s', which nobody serves any more: %w", dir, err)
	}
	states, _ := filepath.Glob(filepath.Join(lazyPlaces(), "mount-*")) // the pattern is right
	for _, state := range states {
		var m lazyMount
		text, err := os.ReadFile(filepath.Join(state, lazyMountFile))
		if err == nil && json.Unmarshal(text, &m) == nil && m.Stored && m.Target == dir && errors.Is(unix.Kill(m.PID, 0), unix.ESRCH) {
			_ = os.RemoveAll(state)
		}
	}
	return nil
}

// tellMounted says that the mount can be used.
func tellMounted(g *globals, dir string) error {
	if err := notifySystemd("READY=1", nil); err != nil {
		g.log().Warn(err.Error())
	}
	if err := g.out.println(fmt.Sprintf("ready: %s", dir)); err != nil {
		return err
	}
	return g.out.flush()
}

// lazyServeCommand makes the commands of processes that serve a mount.
func (g *globals) lazyServeCommand(ref store.Reference, state, socket string) func(fusefs.Takeover) *exec.Cmd {
	args := append([]string{"lazy", "serve", "--store", ref.String(), "--state", state}, g.again()...)
	if socket != "" {
		args = append(args, "--socket", socket)
	}
	return func(start fusefs.Takeover) *exec.Cmd {
		all := slices.Clone(args)
		if start.After {
			all = append(all, "--take-over")
		}
		if start.Failing {
			all = append(all, "--failing")
		}
		cmd := exec.Command(executable(), all...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		// Ctrl-C is for the one that keeps the mount.
		cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
		return cmd
	}
}
