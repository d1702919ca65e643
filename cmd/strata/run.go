package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/daemon"
	"github.com/strata-nix/strata/internal/enter"
	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/internal/userns"
	"github.com/strata-nix/strata/stack"
)

type runOptions struct {
	upOptions
	userns bool
	asRoot bool
}

func newRunCommand(g *globals) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [-- COMMAND [ARG...]]",
		Short: "Run a command among a layered store of its own, without privilege",
		Long: `Assemble a layered store as 'strata up' does, seen by one command alone and what it
starts: in namespaces of its own, with the merged store at /nix/store, also where
the machine has no /nix, and a daemon of its own that NIX_REMOTE names. Without a
command it is your shell.

An ordinary user needs no more than a kernel that allows user namespaces; root gets
along without. Without --lower the store of this machine is the lower one. Without
--upper, what is written is kept in memory and thrown away in the end.

Lazy lowers need /dev/fuse. Where it cannot be had, their caches are substituters
instead: an object is fetched when the daemon is asked for it.

The command runs as if it had been started directly: with the terminal, files and
signals, and its exit status is passed on. Processes that it leaves running are
ended with it, since the store goes that they run from.`,
		Example: `  strata run --lower /mnt/base -- nix-build release.nix
  strata run --lower /srv/base.erofs --upper ~/dev -- bash
  strata run -c strata.toml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); len(args) > 0 && dash != 0 {
				return &usageError{fmt.Errorf("put -- before the command: strata run … -- %s", strings.Join(args, " "))}
			}
			return nil
		},
	}
	f := cmd.Flags()
	o.addFlags(f)
	f.BoolVar(&o.userns, "userns", false, "use a user namespace as root, too")
	f.BoolVar(&o.asRoot, "as-root", false, "let the command be root in the user namespace, with the right to mount")
	cmd.RunE = runner(func(ctx context.Context, args []string) error {
		server, err := enter.Serve()
		if err != nil {
			return err
		}
		if server != nil {
			return o.serve(ctx, g, f, server, args)
		}
		return o.supervise(g, f)
	})
	return cmd
}

// supervise is the outer process's part.
func (o *runOptions) supervise(g *globals, f *pflag.FlagSet) error {
	if _, err := o.runConfig(f); err != nil {
		return err
	}
	server := exec.Command("/proc/self/exe", os.Args[1:]...)
	private := o.userns || !mayMount()
	if private {
		if err := userns.Available(); err != nil {
			return fmt.Errorf("this takes a user namespace, or root: %w", err)
		}
		server = userns.Self(context.Background(), os.Args[1:]...)
	} else {
		server.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	}
	server.Args[0] = os.Args[0]
	status, err := enter.Supervise(server, enter.Options{
		Umask: userUmask, Own: private && !o.asRoot, Note: stack.RuntimeDir(),
		Lost: func(s syscall.WaitStatus) {
			g.log().Warn("the daemon of this 'strata run' has ended before the command; its store can be read, but not written to")
		},
	})
	var early *enter.ServerError
	if errors.As(err, &early) {
		status, err = early.Status, nil // it has said why
		if status.ExitStatus() == 0 {
			return errors.New("the store was taken down before the command could be started")
		}
	}
	if err != nil {
		return userns.Explain(err)
	}
	return passOn(status)
}

// passOn ends as a child did.
func passOn(s syscall.WaitStatus) error {
	if !s.Signaled() {
		if s.ExitStatus() == 0 {
			return nil
		}
		return exitStatus(s.ExitStatus())
	}
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // the child has left its core, if it was to
	signal.Reset(s.Signal())
	defaultAction(s.Signal())
	_ = unix.Kill(os.Getpid(), s.Signal())
	time.Sleep(time.Second) // until it arrives
	return exitStatus(128 + int(s.Signal()))
}

// defaultAction undoes what the runtime of the language does with a signal at all times, such as SIGSEGV and SIGQUIT: it tells where its own
// goroutines are, and ends with a status of its own. Source: rt_sigaction(2); SIG_DFL is 0.
func defaultAction(s syscall.Signal) {
	var action [4]uint64 // not smaller than the kernel's on any machine
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
}

// runConfig is what the file and the flags say, with what 'strata run' takes else.
func (o *runOptions) runConfig(f *pflag.FlagSet) (stack.Config, error) {
	c, err := o.given(f)
	if err != nil {
		return c, err
	}
	if len(c.Lowers) == 0 {
		if _, err := os.Stat("/nix/var/nix/db/db.sqlite"); err != nil {
			return c, &usageError{fmt.Errorf("this machine has no store that could be the lower one; name one with --lower: %w", err)}
		}
		c.Lowers = []stack.Lower{{Name: "host", Path: "/"}}
	}
	if c.UpperDir() == "" {
		if c.Upper.Tmpfs, err = stack.ParseTmpfs(stack.DefaultTmpfs); err != nil {
			return c, err
		}
	}
	if c.Upper.Dir == "" && c.Name == "" {
		c.Name = fmt.Sprintf("%s%d", runPrefix, os.Getpid())
	}
	// Nobody else sees these mounts.
	c.Cover, c.Lazy = true, true
	return resolve(c)
}

// serve is the inner process's part.
func (o *runOptions) serve(ctx context.Context, g *globals, f *pflag.FlagSet, server *enter.Server, args []string) error {
	env := os.Environ()
	if err := os.Setenv(stack.RuntimeEnv, server.Note()); err != nil { // as root of this namespace we would look elsewhere
		return err
	}
	if g.verbose == 0 {
		g.quiet = true // the command has the word
	}
	cfg, err := o.runConfig(f)
	if err != nil {
		return err
	}
	if err := checkOwner(cfg.Upper.Dir); err != nil {
		return err
	}
	if err := enter.Root(cfg.Places()...); err != nil {
		return userns.Explain(err)
	}
	if len(args) == 0 {
		args = []string{userShell()}
	}
	cwd, err := os.Getwd()
	if err != nil {
		cwd = "/"
	}
	command := enter.Command{Args: args, Env: runEnv(env, &cfg), Dir: cwd}
	forget := temporary(&cfg)
	defer forget()
	if g.supervisor, err = server.Supervisor(); err != nil {
		return err
	}
	caches, err := withoutFUSE(ctx, g, &cfg)
	if err != nil {
		return err
	}
	if len(caches) > 0 {
		// What a client's configuration says of substituters, it demands of the daemon.
		command.Env = slices.DeleteFunc(command.Env, func(v string) bool { return strings.HasPrefix(v, "NIX_CONFIG=") })
		command.Env = append(command.Env, "NIX_CONFIG="+os.Getenv("NIX_CONFIG")+"\nextra-substituters = "+strings.Join(caches, " "))
	}
	return serveCommand(ctx, g, cfg, server, command)
}

// leavePatience is how long processes that the command has left get to end by themselves.
const leavePatience = time.Second

// serveCommand brings the stack up, starts the command, and takes the stack down when
// that has ended.
func serveCommand(ctx context.Context, g *globals, cfg stack.Config, server *enter.Server, command enter.Command) error {
	c, st, err := assemble(ctx, g, cfg)
	if err != nil {
		return userns.Explain(explainOwners(err))
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	err = serveStack(serving, g, c, st, func(*stack.Run) error {
		if err := server.Start(command); err != nil {
			return err
		}
		go func() {
			select {
			case <-server.Ended():
			case <-ctx.Done():
			}
			if err := enter.EndOthers(leavePatience); err != nil {
				g.log().Warn(fmt.Sprintf("what the command has left: %v", err))
			}
			stop()
		}()
		return nil
	})
	down := st.TakeDown(context.WithoutCancel(ctx), stack.TakeDownOptions{Lazy: true, KeepStore: errors.Is(err, daemon.ErrStuck)})
	return errors.Join(err, down)
}

// runEnv is the environment of the command.
func runEnv(env []string, cfg *stack.Config) []string {
	var out []string
	for _, v := range env {
		switch name, _, _ := strings.Cut(v, "="); name {
		case "NIX_REMOTE", "NIX_STATE_DIR", "NIX_LOG_DIR", "NIX_DAEMON_SOCKET_PATH", "NIX_STORE_DIR", "NIX_STORE":
			// of the store outside
		default:
			out = append(out, v)
		}
	}
	out = append(out, "NIX_REMOTE="+cfg.ClientURI())
	if cfg.StoreDir != defaultStoreDir {
		out = append(out, "NIX_STORE_DIR="+string(cfg.StoreDir))
	}
	return out
}

// userShell is what is run without a command.
func userShell() string {
	if shell := os.Getenv("SHELL"); filepath.IsAbs(shell) {
		return shell
	}
	return "/bin/sh"
}

// checkOwner tells whether what is there of an upper can be written to: not if it is
// another's for whom the user namespace has no number.
func checkOwner(dir string) error {
	var st unix.Stat_t
	if mayWriteAll() || unix.Stat(dir, &st) != nil {
		return nil // root may, and what is not there is made
	}
	if int(st.Uid) == os.Geteuid() {
		return nil
	}
	return fmt.Errorf("the upper '%s' belongs to another user, whose files cannot be written to in a user namespace: "+
		"choose one of your own with --upper, or let root run this", dir)
}

// mayWriteAll tells whether files of all users can be written to.
func mayWriteAll() bool {
	initial, err := mount.InitialUserNamespace()
	return err != nil || initial && os.Geteuid() == 0
}

// explainOwners says what to do about files that this user namespace has no owner
// for.
func explainOwners(err error) error {
	if errors.Is(err, unix.EOVERFLOW) || errors.Is(err, unix.EINVAL) && strings.Contains(err.Error(), "chown") {
		return fmt.Errorf("%w: in a user namespace only your own files can be written to; choose an upper of your own with --upper", err)
	}
	return err
}
