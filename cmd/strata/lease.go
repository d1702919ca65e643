package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/calendar"
	"github.com/strata-nix/strata/lease"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func newLeaseCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lease",
		Short: "What consumers of a lower store use of it",
		Long: `Leases let many layered stores tell the owner of a lower store what they use of it,
so that its garbage collections leave that alone. The owner names a place, a directory
(which may be on NFS) or a bucket (s3://BUCKET/PREFIX), with 'strata lease init'; each
consumer says in its strata.toml that it publishes there; the owner collects garbage
with 'strata gc --leases PLACE', serves the lower as 'local?leases=PLACE' to clients
that do, or, with stock Nix, runs the script nix-collect-garbage-leased.`,
		Args: noSubcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, make := range []func(*globals) *cobra.Command{
		newLeaseInitCommand, newLeaseListCommand, newLeasePublishCommand, newLeaseDropCommand, newLeaseRootsCommand, newLeaseCollectingCommand,
	} {
		cmd.AddCommand(make(g))
	}
	return cmd
}

// place opens the place that an argument names.
func (g *globals) place(ctx context.Context, text string) (*lease.Place, error) {
	c, err := g.config()
	if err != nil {
		return nil, err
	}
	p, err := c.leases(ctx, text)
	if err != nil {
		return nil, &usageError{err}
	}
	return p, nil
}

// placeError makes the error one about something that is not there, if it is.
func placeError(err error) error {
	if errors.Is(err, lease.ErrNoTerms) {
		return &absentError{err.Error()}
	}
	return err
}

func newLeaseInitCommand(g *globals) *cobra.Command {
	var storeDir, term, grace, skew, settle string
	cmd := &cobra.Command{
		Use:   "init PLACE",
		Short: "Let consumers publish leases in a place",
		Long: `Lay down the terms of a place for leases. Consumers publish nothing where there are
none, and garbage is not collected by it either.

On NFS, --settle says how long it takes until all machines see what one has written:
twice the acdirmax of the mounts, which is a minute by default.`,
		Example: "  strata lease init /srv/base-leases\n  strata lease init /nfs/base-leases --settle 2m",
		Args:    exactlyOne,
		RunE: runner(func(ctx context.Context, args []string) error {
			p, err := g.place(ctx, args[0])
			if err != nil {
				return err
			}
			var t lease.Terms
			for _, d := range []struct {
				name, text string
				to         *time.Duration
			}{{"term", term, &t.Term}, {"grace", grace, &t.Grace}, {"skew", skew, &t.Skew}, {"settle", settle, &t.Settle}} {
				if *d.to, err = calendar.ParseSpan(d.text); err != nil {
					return &usageError{fmt.Errorf("--%s: %w", d.name, err)}
				}
				if *d.to == 0 && d.name != "settle" {
					*d.to = -1 // none, and not the default
				}
			}
			if t.StoreDir, err = storepath.ParseDir(storeDir); err != nil {
				return &usageError{err}
			}
			return p.Init(ctx, t)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&storeDir, "store-dir", string(storepath.DefaultDir), "the store `DIR` of the lower store")
	f.StringVar(&term, "term", "72h", "for how `LONG` a lease is published; it is renewed after a third of that")
	f.StringVar(&grace, "grace", "7d", "for how `LONG` a lease counts after it has expired")
	f.StringVar(&skew, "skew", "10m", "by how `MUCH` clocks may differ")
	f.StringVar(&settle, "settle", "0s", "how `LONG` it takes until everybody sees what was written")
	return cmd
}

// leaseJSON is a lease in the output of list, see doc/formats/cli-json.md.
type leaseJSON struct {
	Name      string     `json:"name"`
	State     string     `json:"state"`
	Consumer  string     `json:"consumer,omitempty"`
	Holder    string     `json:"holder,omitempty"`
	Sequence  uint64     `json:"sequence,omitempty"`
	Published *time.Time `json:"published,omitempty"`
	Expires   *time.Time `json:"expires,omitempty"`
	Counts    *time.Time `json:"countsUntil,omitempty"`
	Uses      uint64     `json:"uses,omitempty"`
	Roots     int        `json:"roots,omitempty"`
	Error     string     `json:"error,omitempty"`
}

func newLeaseListCommand(g *globals) *cobra.Command {
	var json bool
	cmd := &cobra.Command{
		Use:   "list PLACE",
		Short: "List the leases in a place",
		Long: `List the leases in a place: who has them, whether they are live, in their grace
period or lapsed, until when they count, and how many paths they keep. The exit
status is 4 when one cannot be read.`,
		Args: exactlyOne,
		RunE: runner(func(ctx context.Context, args []string) error {
			p, err := g.place(ctx, args[0])
			if err != nil {
				return err
			}
			return runLeaseList(ctx, g, p, json)
		}),
	}
	cmd.Flags().BoolVar(&json, "json", false, "print JSON")
	return cmd
}

func runLeaseList(ctx context.Context, g *globals, p *lease.Place, json bool) error {
	terms, all, err := p.List(ctx)
	if err != nil {
		return placeError(err)
	}
	out := make([]leaseJSON, 0, len(all))
	var bad error
	for _, e := range all {
		if e.Err != nil {
			out = append(out, leaseJSON{Name: e.Name, State: "unreadable", Error: e.Err.Error()})
			bad = &unreadableLeases{p.String()}
			continue
		}
		l := e.Lease
		until := time.Now().Add(l.Remaining(terms, time.Now())).UTC().Truncate(time.Second)
		out = append(out, leaseJSON{
			Name: e.Name, State: string(e.State), Consumer: l.Consumer, Holder: l.Holder, Sequence: l.Sequence,
			Published: &l.Published, Expires: &l.Expires, Counts: &until, Uses: l.Uses, Roots: len(l.Roots),
		})
	}
	if json {
		return errors.Join(g.out.printJSON(out), bad)
	}
	w := tabwriter.NewWriter(g.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "consumer\tstate\tcounts until\tuses\tholder")
	for _, l := range out {
		if l.Error != "" {
			_, _ = fmt.Fprintf(w, "%s\t%s\t-\t-\t%s\n", l.Name, l.State, l.Error)
			continue
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", l.Consumer, l.State, l.Counts.Local().Format(time.DateTime), l.Uses, l.Holder)
	}
	return errors.Join(w.Flush(), bad)
}

// unreadableLeases says that some leases cannot be read.
type unreadableLeases struct{ place string }

func (e *unreadableLeases) Error() string {
	return fmt.Sprintf("there are leases in '%s' that cannot be read, so that nothing can be collected by them", e.place)
}

func (e *unreadableLeases) Unwrap() error { return store.ErrDamaged }

func newLeasePublishCommand(g *globals) *cobra.Command {
	var o stackSelection
	cmd := &cobra.Command{
		Use:   "publish [NAME...]",
		Short: "Tell the owners of lowers now what is used of them",
		Long: `Have layered stores that are up tell the owners of their lower stores what they use:
by leases where strata.toml names a place for them, and by roots where the owner has
made the directory gcroots/strata in the lower's state. They do that by themselves
before they use something new, and before a lease expires.`,
		Args: anyArgs,
		RunE: runner(func(ctx context.Context, args []string) error {
			o.names = args
			return runLeasePublish(ctx, g, o)
		}),
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func runLeasePublish(ctx context.Context, g *globals, o stackSelection) error {
	runs, err := o.runs()
	if len(runs) == 0 && err == nil {
		return &absentError{"no stack is up"}
	}
	for _, r := range runs {
		holds, askErr := r.Publish(ctx)
		if askErr != nil {
			err = errors.Join(err, notUp(askErr))
			continue
		}
		if len(holds) == 0 {
			err = errors.Join(err, g.out.println(r.Name+": no owner of a lower takes part"))
		}
		for _, h := range holds {
			line := fmt.Sprintf("%s: %s of %s in %s: %d paths, by %d roots", r.Name, h.Kind, h.Lower, h.Place, h.Uses, h.Roots)
			if h.Expires != nil {
				line += ", until " + h.Expires.Local().Format(time.DateTime)
			}
			err = errors.Join(err, g.out.println(line))
		}
	}
	return err
}

func newLeaseDropCommand(g *globals) *cobra.Command {
	var lapsed bool
	cmd := &cobra.Command{
		Use:   "drop PLACE [CONSUMER...]",
		Short: "Take leases away",
		Long: `Take leases away, so that they keep nothing any more: those of the consumers that are
named, or those that count no more (--lapsed). A consumer that is at work publishes
its lease again.`,
		Args: someArgs,
		RunE: runner(func(ctx context.Context, args []string) error {
			if lapsed == (len(args) > 1) {
				return &usageError{errors.New("either consumers are named, or --lapsed is given")}
			}
			p, err := g.place(ctx, args[0])
			if err != nil {
				return err
			}
			dropped := args[1:]
			if lapsed {
				dropped, err = p.DropLapsed(ctx)
			}
			for _, c := range args[1:] {
				err = errors.Join(err, p.Drop(ctx, c))
			}
			if err == nil && len(dropped) > 0 {
				err = g.out.println("dropped: " + strings.Join(dropped, ", "))
			}
			return placeError(err)
		}),
	}
	cmd.Flags().BoolVar(&lapsed, "lapsed", false, "those that count no more")
	return cmd
}

func newLeaseRootsCommand(g *globals) *cobra.Command {
	var skip []string
	cmd := &cobra.Command{
		Use:   "roots PLACE",
		Short: "Print the paths of a lower store that leases keep",
		Long: `Print the paths of the store (--store) that the leases in a place keep, one a line:
whoever makes garbage collector roots of them keeps what consumers use. A lease that
cannot be read is an error, as nobody knows what it keeps, and then nothing is
printed. What is not valid in the store any more is left out.`,
		Example: "  strata lease roots /srv/base-leases --store 'local?read-only=true'",
		Args:    exactlyOne,
		RunE: runner(func(ctx context.Context, args []string) error {
			p, err := g.place(ctx, args[0])
			if err != nil {
				return err
			}
			return g.with(ctx, func(st store.Store) error {
				roots, err := p.Roots(ctx, st, skip...)
				if err != nil {
					return placeError(err)
				}
				var paths []string
				for path := range roots {
					paths = append(paths, st.Dir().Print(path))
				}
				slices.Sort(paths)
				for _, path := range paths {
					if err := g.out.println(path); err != nil {
						return err
					}
				}
				return nil
			})
		}),
	}
	cmd.Flags().StringArrayVar(&skip, "skip-lease", nil, "pass over the lease of `CONSUMER`, readable or not; may be repeated")
	return cmd
}

func newLeaseCollectingCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "collecting PLACE -- COMMAND [ARG...]",
		Short: "Run a garbage collector of a lower store so that consumers know of it",
		Long: `Run a command, and let the consumers of a lower store know that it collects garbage
there: until it has ended they begin to use nothing that they have not leased. The
leases are to be read by the command, not before. Its exit status is that of the
command, which is ended by SIGTERM if consumers cannot be told any more.`,
		Example: "  strata lease collecting /srv/base-leases -- sh collect.sh",
		Args:    usageArgs(cobra.MinimumNArgs(2)),
		RunE: runner(func(ctx context.Context, args []string) error {
			command := args[1:]
			if command[0] == "--" {
				command = command[1:]
			}
			if len(command) == 0 {
				return &usageError{errors.New("there is no command to run")}
			}
			p, err := g.place(ctx, args[0])
			if err != nil {
				return err
			}
			return runCollecting(ctx, p, command)
		}),
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func runCollecting(ctx context.Context, p *lease.Place, command []string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	c, err := p.Collect(ctx, fmt.Sprintf("process %d on %s (%s)", os.Getpid(), host, command[0]))
	if err != nil {
		return placeError(err)
	}
	cmd := exec.CommandContext(c.Context(), command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	err = cmd.Run()
	if cause := context.Cause(c.Context()); errors.Is(cause, lease.ErrMarkLost) {
		err = cause
	}
	return errors.Join(childError(err), c.End())
}
