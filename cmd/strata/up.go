package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/strata-nix/strata/daemon"
	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/internal/unixsocket"
	"github.com/strata-nix/strata/optimise"
	"github.com/strata-nix/strata/stack"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

type upOptions struct {
	file      string
	lowers    []string
	upper     string
	tmpfs     string
	reflink   string
	storeDir  string
	gc        []string
	showState bool
	detach    bool
	// onLowerChange is "pivot" or "refuse".
	onLowerChange string
	cfg           stack.Config // what the other flags say
}

func newUpCommand(g *globals) *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Assemble a layered store and serve it",
		Long: `Assemble a layered store as strata.toml or the flags describe it, and serve it
to Nix's commands until SIGTERM or Ctrl-C, which takes everything down again.

The lower stores are checked and, if they are images, mounted read-only; over
them and the upper layer the merged store is mounted; what Nix has in /nix/var/nix
is kept in the upper's directory and shown there; the daemon listens where Nix's
commands look for it. A lower is a directory or an image that has nix/store and
nix/var/nix/db in it, or the URI of a store such as a daemon's socket.

Started by an ordinary user it does all this in a user namespace. Programs
outside of that do not see the merged store; how to get in is printed.

What a killed 'strata up' left mounted is taken over if it is what is wanted,
since programs may run from it, and removed otherwise.`,
		Example: `  strata up --lower /mnt/base --upper /var/lib/strata/dev
  strata up --lower /srv/base.erofs --lower /mnt/team --upper ./dev --detach
  strata up -c strata.toml`,
		Args: noArgs,
	}
	f := cmd.Flags()
	o.addFlags(f)
	f.BoolVarP(&o.detach, "detach", "d", false, "return when the stack is ready, and serve it in the background")
	cmd.RunE = runner(func(ctx context.Context, _ []string) error {
		cfg, err := o.config(f)
		if err != nil {
			return err
		}
		return runUp(ctx, g, cfg, o.detach)
	})
	return cmd
}

func (o *upOptions) addFlags(f *pflag.FlagSet) {
	c := &o.cfg
	f.StringVarP(&o.file, "config", "c", "", "read `FILE` (strata.toml); flags win over what it says")
	f.StringArrayVar(&o.lowers, "lower", nil, "a lower store: a `PATH or URI`; may be repeated, the first that has an object wins")
	f.StringVar(&o.upper, "upper", "", "the `DIR` for all that is written; or tmpfs[:SIZE] for an upper in memory, which goes with the stack")
	f.StringVar(&o.tmpfs, "upper-tmpfs", "", "keep the upper in memory, at most `SIZE` (4G; 50% of the memory); it goes with the stack")
	f.StringVar(&o.reflink, "upper-reflink", "", "when equal files of the upper share blocks instead of an inode: `WHEN` is auto, always or never (default: auto)")
	f.StringVar(&c.Upper.Layer, "upper-layer", "", "the `DIR` of the upper layer's objects (default: layer in the upper)")
	f.StringVar(&c.Upper.Work, "upper-work", "", "OverlayFS's work `DIR` (default: work in the upper)")
	f.StringVar(&c.Upper.State, "upper-state", "", "Nix's state `DIR` (default: state in the upper)")
	f.StringVar(&c.Upper.Log, "upper-log", "", "the `DIR` of build logs (default: log in the upper)")
	f.StringVar(&c.Name, "name", "", "the `NAME` of the stack (default: the last component of the upper)")
	f.StringVar(&o.storeDir, "store-dir", "", "the store `DIR` that store paths begin with (default: NIX_STORE_DIR or /nix/store)")
	f.StringVar(&c.Root, "root", "", "mount the store and show the state below `DIR`")
	f.StringVar(&c.Mount, "mount", "", "mount the store at `DIR` (default: the store directory, below the root)")
	f.StringVar(&c.Socket, "socket", "", "listen on the unix socket at `PATH` (default: daemon-socket/socket in the state)")
	f.BoolVar(&o.showState, "show-state", false, "show the state at /nix/var/nix (default: if the store is mounted at /nix/store)")
	f.BoolVar(&c.Cover, "cover", false, "mount over directories that have something in them")
	f.BoolVar(&c.Lazy, "lazy-unmount", false, "at the end, detach what is busy instead of leaving it mounted")
	f.DurationVar(&c.WaitForLowers, "wait-for-lowers", 0, "wait so long for lower stores that are not there yet")
	f.StringVar(&o.onLowerChange, "on-lower-change", "", "when the lowers are not those that the upper was made for, `pivot` (default) or refuse")
	f.StringArrayVar(&o.gc, "gc", nil, "set `KEY=VALUE` of the policy by which garbage is collected; may be repeated")
	f.StringVar(&c.Consumer, "consumer", "", "the `NAME` by which owners of lowers know the stack")
	f.StringVar((*string)(&c.Watch.How), "watch", "", "`HOW` it is noticed that lowers grow: auto, inotify, poll or never")
	f.DurationVar(&c.Watch.Every, "watch-interval", 0, "how often lowers are looked at")
}

// config is what the file and the flags say.
func (o *upOptions) config(f *pflag.FlagSet) (stack.Config, error) {
	c, err := o.given(f)
	if err != nil {
		return c, err
	}
	if c.UpperDir() == "" && len(c.Lowers) == 0 {
		return c, &usageError{errors.New("strata up needs --lower and --upper, or a file with -c")}
	}
	return resolve(c)
}

// resolve fills in the defaults; relative paths begin in the working directory.
func resolve(c stack.Config) (stack.Config, error) {
	cwd, err := os.Getwd()
	if err != nil {
		return c, err
	}
	if c, err = c.Resolve(cwd); err != nil {
		return c, &usageError{err}
	}
	return c, nil
}

// given is what the file and the flags say, without defaults.
func (o *upOptions) given(f *pflag.FlagSet) (c stack.Config, err error) {
	if o.file != "" {
		if c, err = stack.ReadFile(o.file); err != nil {
			return c, &usageError{err}
		}
	}
	for name, set := range map[string]func(){
		"upper-layer":     func() { c.Upper.Layer = o.cfg.Upper.Layer },
		"upper-work":      func() { c.Upper.Work = o.cfg.Upper.Work },
		"upper-state":     func() { c.Upper.State = o.cfg.Upper.State },
		"upper-log":       func() { c.Upper.Log = o.cfg.Upper.Log },
		"name":            func() { c.Name = o.cfg.Name },
		"root":            func() { c.Root = o.cfg.Root },
		"mount":           func() { c.Mount = o.cfg.Mount },
		"socket":          func() { c.Socket = o.cfg.Socket },
		"cover":           func() { c.Cover = o.cfg.Cover },
		"lazy-unmount":    func() { c.Lazy = o.cfg.Lazy },
		"wait-for-lowers": func() { c.WaitForLowers = o.cfg.WaitForLowers },
		"consumer":        func() { c.Consumer = o.cfg.Consumer },
		"watch":           func() { c.Watch.How = o.cfg.Watch.How },
		"watch-interval":  func() { c.Watch.Every = o.cfg.Watch.Every },
		"lower": func() {
			var bad error
			c.Lowers, bad = parseLowers(o.lowers)
			err = errors.Join(err, bad)
		},
		"on-lower-change": func() {
			var bad error
			c.OnLowerChange, bad = stack.ParseOnLowerChange(o.onLowerChange)
			err = errors.Join(err, bad)
		},
		"show-state": func() {
			if c.ShowState = stack.No; o.showState {
				c.ShowState = stack.Yes
			}
		},
	} {
		if f.Changed(name) {
			set()
		}
	}
	if err = errors.Join(err, o.setUpper(f, &c.Upper), setPolicy(&c.GC, o.gc)); err != nil {
		return c, &usageError{err}
	}
	if dir := environment(os.LookupEnv).nonEmpty("NIX_STORE_DIR", ""); o.storeDir == "" && c.StoreDir == "" {
		o.storeDir = dir
	}
	if o.storeDir != "" {
		if c.StoreDir, err = storepath.ParseDir(o.storeDir); err != nil {
			return c, &usageError{err}
		}
	}
	return c, nil
}

// setUpper obeys --upper, which says anew what the file says of it, --upper-tmpfs and
// --upper-reflink.
func (o *upOptions) setUpper(f *pflag.FlagSet, u *stack.Upper) error {
	tmpfs := o.tmpfs
	if f.Changed("upper") {
		u.Dir, u.Tmpfs = o.upper, 0
		if size, ok := strings.CutPrefix(o.upper, "tmpfs"); ok && (size == "" || size[0] == ':') {
			u.Dir = ""
			if tmpfs == "" {
				tmpfs = cmp.Or(strings.TrimPrefix(size, ":"), stack.DefaultTmpfs)
			}
		}
	}
	if o.reflink != "" {
		var err error
		if u.Reflink, err = optimise.ParseReflink(o.reflink); err != nil {
			return fmt.Errorf("--upper-reflink: %w", err)
		}
	}
	if tmpfs == "" {
		return nil
	}
	size, err := stack.ParseTmpfs(tmpfs)
	if err != nil {
		return fmt.Errorf("size of the upper: %w", err)
	}
	u.Tmpfs = size
	return nil
}

// setPolicy obeys --gc.
func setPolicy(p *stack.Policy, pairs []string) (err error) {
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			err = errors.Join(err, fmt.Errorf("--gc: '%s' is not KEY=VALUE", pair))
			continue
		}
		err = errors.Join(err, p.Set(key, value))
	}
	return err
}

func parseLowers(texts []string) ([]stack.Lower, error) {
	var all []stack.Lower
	for _, text := range texts {
		l, err := stack.ParseLower(text)
		if err != nil {
			return nil, fmt.Errorf("lower '%s': %w", text, err)
		}
		all = append(all, l)
	}
	return all, nil
}

func runUp(ctx context.Context, g *globals, cfg stack.Config, detach bool) error {
	started := os.Getenv(upChildEnv)
	if started == "" {
		if again, err := startAgain(ctx, g, cfg, detach); again || err != nil {
			return err
		}
	}
	_ = os.Unsetenv(upChildEnv) // it is for us alone
	g.kept = takeKeptLowers()
	c, st, err := assemble(ctx, g, cfg)
	if derr := g.kept.drop(); derr != nil {
		g.log().Warn(derr.Error())
	}
	if err != nil {
		return err
	}
	log, lowers := g.log(), st.Run().Mounts
	err = serveStack(ctx, g, c, st, func(r *stack.Run) error {
		if err := tellReady(g, r, started == background); err != nil {
			log.Warn(fmt.Sprintf("cannot say that the stack is ready: %v", err))
		}
		return nil
	})
	down := st.TakeDown(context.WithoutCancel(ctx), stack.TakeDownOptions{
		Lazy: cfg.Lazy, KeepStore: errors.Is(err, daemon.ErrStuck),
	})
	if err := dropLowers(lowers, st.Run().Mounts); err != nil {
		log.Warn(err.Error())
	}
	if r := st.Run(); len(r.Mounts)+len(r.Detached) == 0 {
		g.awaitKeepers()
	}
	if err := errors.Join(err, down); err != nil {
		return err
	}
	log.Info(fmt.Sprintf("stack '%s' is down", cfg.Name))
	return nil
}

// assemble brings up everything of a stack but its daemon.
func assemble(ctx context.Context, g *globals, cfg stack.Config) (*config, *stack.Stack, error) {
	c, parts, err := stackParts(ctx, g, cfg)
	if err != nil {
		return nil, nil, err
	}
	st, err := stack.Assemble(ctx, cfg, parts)
	return c, st, err
}

// broughtUp does something with the stack of a strata.toml that is not up: it is brought up for that,
// without its daemon.
func broughtUp(ctx context.Context, g *globals, file string, do func(*stack.Stack) error) (err error) {
	cfg, err := stack.ReadFile(file)
	if err != nil {
		return &usageError{err}
	}
	if cfg, err = cfg.Resolve("/"); err != nil {
		return &usageError{err}
	}
	if os.Getenv(upChildEnv) == "" {
		if again, err := startAgain(ctx, g, cfg, false); again || err != nil {
			return err
		}
	}
	_ = os.Unsetenv(upChildEnv) // it is for us alone
	_, st, err := assemble(ctx, g, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.TakeDown(context.WithoutCancel(ctx), stack.TakeDownOptions{})) }()
	return do(st)
}

// stackParts are what a stack is assembled with, by nix.conf and its own settings.
func stackParts(ctx context.Context, g *globals, cfg stack.Config) (*config, stack.Parts, error) {
	for _, name := range slices.Sorted(maps.Keys(cfg.Settings)) {
		g.options = append([]string{name + "=" + cfg.Settings[name]}, g.options...)
	}
	c, err := g.config()
	if err != nil {
		return nil, stack.Parts{}, err
	}
	c.dir = cfg.StoreDir
	if initial, err := mount.InitialUserNamespace(); err == nil && !initial {
		c.local.BuildUsersGroup = "" // there are no other users in here
	}
	upper := c.local
	upper.Pool = c.pool
	if cfg.GC.Leases != "" {
		if upper.Leases, err = c.leases(ctx, cfg.GC.Leases); err != nil {
			return nil, stack.Parts{}, &usageError{fmt.Errorf("gc.leases: %w", err)}
		}
	}
	return c, stack.Parts{Open: c.open, Lazy: g.serveLazy, LazyKept: g.kept.take, Leases: c.leases, Upper: upper, Version: release, Log: g.log()}, nil
}

// answers tells whether somebody listens on a socket.
func answers(ctx context.Context, socket string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := unixsocket.Dial(ctx, socket)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// serveStack serves a stack until ctx ends. When clients can come it calls ready.
func serveStack(ctx context.Context, g *globals, c *config, st *stack.Stack, ready func(*stack.Run) error) error {
	log := g.log()
	if answers(ctx, st.Config.Socket) {
		return fmt.Errorf("another daemon answers on the socket '%s'; choose another with --socket", st.Config.Socket)
	}
	listeners, err := listen(st.Config.Socket)
	if err != nil {
		return err
	}
	var sockets []string
	for _, l := range listeners {
		sockets = append(sockets, l.Addr().String())
	}
	if len(listeners) == 1 && os.Getenv("LISTEN_FDS") == "" {
		sockets[0] = st.Config.ClientSocket() // what it was bound as had another name
	}
	d := daemon.New(daemon.Options{
		Store: st.Store, Version: version, Users: c.users, TrustedSubstituters: c.trustedSubstituters,
		Force: store.TrustUnknown, Log: log,
	})
	failed := st.Serving(d.Pause)
	// A daemon must not keep anything from being unmounted.
	err = errors.Join(os.Chdir("/"), st.Announce(ctx, sockets))
	if err == nil {
		err = ready(st.Run())
	}
	if err != nil {
		for _, l := range listeners {
			err = errors.Join(err, l.Close())
		}
		return err
	}
	serving, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case err := <-failed:
			stop(err)
		case <-serving.Done():
		}
	}()
	err = d.Serve(serving, listeners...)
	if ctx.Err() == nil {
		err = errors.Join(context.Cause(serving), err)
	}
	return err
}

// printReady says what is up and how to use it.
func printReady(r *stack.Run) string {
	text := fmt.Sprintf("ready: stack '%s' at %s\n", r.Name, r.Mount)
	text += fmt.Sprintf("  upper   %s\n", r.Dir)
	for _, l := range r.Lowers {
		text += fmt.Sprintf("  lower   %s (%s)\n", l.Given, l.Kind)
	}
	for _, s := range r.Sockets {
		text += fmt.Sprintf("  socket  %s\n", s)
	}
	text += fmt.Sprintf("  clients NIX_REMOTE=%s\n", shellWord(r.Client))
	if enter := r.Enter(); enter != nil {
		text += "The mounts are seen only in the stack's own namespace. A program is run there by\n  "
		for _, word := range enter {
			text += shellWord(word) + " "
		}
		text += "COMMAND\n"
	}
	return text
}
