package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/stack"
)

type statusOptions struct {
	stackSelection
	json bool
}

func newStatusCommand(g *globals) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status [NAME...]",
		Short: "Tell how layered stores are",
		Long: `Tell of each stack that is up, or of the ones that are named: where it is mounted,
whether the mount is what it should be, whether the daemon answers, and the
layers from top to bottom with the number of their objects. A number with a tilde
is an estimate from above.

The exit status is 4 when something is not as it should be, and 3 when a stack
that is named is not up.`,
		Example: "  strata status\n  strata status --json dev",
		Args:    anyArgs,
		RunE: runner(func(ctx context.Context, args []string) error {
			o.names = args
			return runStatus(ctx, g, o)
		}),
	}
	o.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func runStatus(ctx context.Context, g *globals, o statusOptions) error {
	runs, err := o.runs()
	all := make([]*stack.Status, 0, len(runs))
	for _, r := range runs {
		st := r.Status(ctx)
		all = append(all, st)
		if len(st.Problems) > 0 {
			err = errors.Join(err, &unwellError{st.Name})
		}
	}
	if o.json {
		return errors.Join(g.out.printJSON(all), err)
	}
	if len(all) == 0 && err == nil {
		return g.out.println("no stack is up")
	}
	for i, st := range all {
		if i > 0 {
			err = errors.Join(err, g.out.println(""))
		}
		err = errors.Join(err, printStatus(g.out, st))
	}
	return err
}

// unwellError says that a stack is not as it should be.
type unwellError struct{ name string }

func (e *unwellError) Error() string { return fmt.Sprintf("stack '%s' is not as it should be", e.name) }

func printStatus(out *output, st *stack.Status) error {
	head := fmt.Sprintf("%s: %s", st.Name, st.State)
	if st.State != stack.StateDown {
		head += fmt.Sprintf(" for %s, process %d, strata %s", roughly(st.Uptime), st.PID, st.Version)
	}
	mounted := "mounted as it should be"
	if !st.Mounted {
		mounted = "not mounted as it should be"
	}
	if st.Private {
		mounted += ", in a namespace of its own"
	}
	lines := []string{head, fmt.Sprintf("  store   %s, %s", st.Mount, mounted)}
	for _, s := range st.Sockets {
		answers := "answers"
		if !s.Answering {
			answers = "does not answer"
		}
		lines = append(lines, fmt.Sprintf("  socket  %s, %s", s.Path, answers))
	}
	if st.Client != "" {
		lines = append(lines, "  clients NIX_REMOTE="+shellWord(st.Client))
	}
	if err := out.println(strings.Join(lines, "\n")); err != nil {
		return err
	}
	if err := printLayers(out, st); err != nil {
		return err
	}
	for _, l := range st.Layers {
		if l.Lazy == nil {
			continue
		}
		if err := out.println(fmt.Sprintf("  lazy lower %s:\n  %s", l.Name, strings.Join(lazyLines(l.Lazy), "\n  "))); err != nil {
			return err
		}
	}
	if err := printUpkeep(out, st); err != nil {
		return err
	}
	if st.Limited != "" {
		if err := out.println("  " + st.Limited); err != nil {
			return err
		}
	}
	for _, p := range st.Problems {
		if err := out.println("  ! " + p); err != nil {
			return err
		}
	}
	return nil
}

// printUpkeep tells of refreshes, of what owners of lowers were told, and of
// garbage collections, as far as there are any.
func printUpkeep(out *output, st *stack.Status) error {
	var lines []string
	if r := st.Refreshes; r != nil && r.Last != nil {
		line := fmt.Sprintf("  refresh %s, %d times", r.Last.Local().Format(time.DateTime), r.Count)
		if r.Errors > 0 {
			line += fmt.Sprintf(", %d errors: %s", r.Errors, r.LastError)
		}
		lines = append(lines, line)
	}
	for _, h := range st.Holds {
		line := fmt.Sprintf("  %-7s of %s in %s: %d paths", h.Kind, h.Lower, h.Place, h.Uses)
		if h.Last != nil {
			line += ", told " + h.Last.Local().Format(time.DateTime)
		}
		lines = append(lines, line)
	}
	if gc := st.GC; gc != nil {
		line := "  gc      never yet"
		if gc.Last != nil {
			line = fmt.Sprintf("  gc      %s, %s freed", gc.Last.Started.Local().Format(time.DateTime), size(gc.Last.BytesFreed))
		}
		if gc.Next != nil {
			line += "; due " + gc.Next.Local().Format(time.DateTime)
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return nil
	}
	return out.println(strings.Join(lines, "\n"))
}

func printLayers(out *output, st *stack.Status) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "  layer\tkind\tpaths\tobjects\twhere")
	for _, l := range st.Layers {
		objects := count(l.Objects)
		if l.NarBytes != nil {
			objects += ", " + size(*l.NarBytes)
		}
		where := l.Dir
		if l.Given != "" && l.Given != l.Dir {
			where = l.Given
		}
		switch {
		case l.Disk != nil && l.Tmpfs:
			where += fmt.Sprintf(" (in memory, %s of %s used; goes with the stack)", size(l.Disk.Size-min(l.Disk.Size, l.Disk.Available)), size(l.Disk.Size))
		case l.Disk != nil:
			where += fmt.Sprintf(" (%s free)", size(l.Disk.Available))
		}
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", l.Name, l.Kind, count(l.Paths), objects, where)
	}
	return w.Flush()
}

// count prints a number that may be an estimate, or not known.
func count(c *stack.Count) string {
	switch {
	case c == nil:
		return "-"
	case !c.Exact:
		return "~" + strconv.FormatInt(c.Number, 10)
	}
	return strconv.FormatInt(c.Number, 10)
}

// roughly prints a time span without more digits than anybody wants.
func roughly(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Minute:
		return d.Round(time.Second / 10).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}
