package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/pivot"
	"github.com/strata-nix/strata/stack"
)

type pivotOptions struct {
	stackSelection
	stack.PivotOptions
	lowers, old      []string
	resume, rollback bool
	json             bool
	waitForClients   time.Duration
}

func newPivotCommand(g *globals) *cobra.Command {
	var o pivotOptions
	cmd := &cobra.Command{
		Use:   "pivot [NAME]",
		Short: "Move the upper of a layered store to other lower stores",
		Long: `Move the upper of a stack to other lower stores: a new image, a new release, one lower
more or fewer. The stack is named, or found by its strata.toml or upper, and may be up or
down. The new lowers are those of --lower, or else those that strata.toml has now; without
either the lowers are looked at again, since an image may have been replaced.

What the upper needs and the new lowers lack is copied up from the old ones first: whatever
its own objects refer to, and whatever a gc root leads to. What a new lower has alike is
dropped from the upper. What no lower has any more is fetched from substituters; if they do
not have it either, nothing is done and it is listed; with --rebuild it is built anew, if
its derivation and what that needs are there. With --drop-missing it is given up, but never
because a substituter does not answer: --option substituters 'URI...' says who else is asked,
'' that nobody is.

Programs that run go on with what they have from the old lowers until they end, and clients
wait for a moment. An interruption at any time does no harm: the next 'strata up' completes
a pivot that was committed and undoes another, as --continue and --rollback do.`,
		Example: `  strata pivot dev --lower /srv/base-25.05.erofs --dry-run
  strata pivot -c strata.toml
  strata pivot --upper /var/lib/strata/dev --lower /mnt/team --lower /mnt/base
  strata pivot dev --lower /srv/new --old-lower /srv/moved/old`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: runner(func(ctx context.Context, args []string) error {
			o.names = args
			return runPivot(ctx, g, o)
		}),
	}
	f := cmd.Flags()
	o.addFlags(f)
	f.StringArrayVar(&o.lowers, "lower", nil, "a new lower store: a `PATH or URI`; may be repeated, the first that has an object wins")
	f.StringArrayVar(&o.old, "old-lower", nil, "a `PATH or URI` where an old lower is now, or that has what one had; may be repeated")
	f.BoolVarP(&o.DryRun, "dry-run", "n", false, "tell what would be done, and do nothing")
	f.BoolVar(&o.OnlyLive, "only-live", false, "need only what gc roots lead to; what else leans on the old lowers goes")
	f.BoolVar(&o.DropRoots, "drop-roots", false, "remove gc roots that lead to nothing in the new lowers, instead of copying that")
	f.BoolVar(&o.DropMissing, "drop-missing", false, "drop what cannot be had any more, with all that refers to it")
	f.BoolVar(&o.Rebuild, "rebuild", false, "build anew what neither a lower nor a substituter has any more")
	f.BoolVar(&o.IgnoreProcesses, "ignore-processes", false, "do not copy what only running programs use")
	f.DurationVar(&o.waitForClients, "wait", stack.DefaultWait, "how long operations of clients may go on that are under way")
	f.BoolVar(&o.resume, "continue", false, "go on with a pivot that was interrupted")
	f.BoolVar(&o.rollback, "rollback", false, "undo a pivot that was interrupted before it was committed")
	f.BoolVar(&o.json, "json", false, "print JSON")
	cmd.MarkFlagsMutuallyExclusive("continue", "rollback", "dry-run")
	cmd.MarkFlagsMutuallyExclusive("continue", "lower")
	cmd.MarkFlagsMutuallyExclusive("rollback", "lower")
	return cmd
}

func runPivot(ctx context.Context, g *globals, o pivotOptions) error {
	if o.waitForClients <= 0 {
		return &usageError{errors.New("--wait must be positive")}
	}
	o.Wait = o.waitForClients
	var err error
	if o.Lowers, err = absoluteLowers(o.lowers); err == nil {
		o.Old, err = absoluteLowers(o.old)
	}
	if err != nil {
		return &usageError{err}
	}
	r, cfg, err := o.find()
	if err != nil {
		return err
	}
	if r != nil {
		return pivotServed(ctx, g, o, r, cfg)
	}
	return pivotDown(ctx, g, o, *cfg)
}

// absoluteLowers parses lowers and makes their paths absolute: who opens them may have another
// working directory.
func absoluteLowers(texts []string) ([]stack.Lower, error) {
	all, err := parseLowers(texts)
	for i := range all {
		for _, p := range []*string{&all[i].Path, &all[i].Mount} {
			if *p != "" && err == nil {
				*p, err = filepath.Abs(*p)
			}
		}
	}
	return all, err
}

// find gives the stack that is meant: a process that serves it, or else its configuration. Of a
// stack with a strata.toml it gives that, too.
func (o *pivotOptions) find() (*stack.Run, *stack.Config, error) {
	var cfg *stack.Config
	if o.file != "" || o.upper != "" {
		c, err := o.config()
		if err != nil {
			return nil, nil, err
		}
		cfg = &c
	}
	if cfg == nil && len(o.names) == 0 {
		runs, err := stack.List()
		if err != nil || len(runs) != 1 {
			return nil, nil, errors.Join(err, &usageError{errors.New("say which stack: by its name, with -c or with --upper")})
		}
		return runs[0], nil, nil
	}
	var r *stack.Run
	var err error
	if cfg != nil {
		r, err = stack.FindUpper(cfg.Upper.Dir)
	} else {
		r, err = stack.Find(o.names[0])
	}
	if err == nil {
		var up bool
		if up, err = r.Up(); err == nil && up {
			return r, cfg, nil
		}
	}
	switch {
	case cfg != nil && (err == nil || errors.Is(err, stack.ErrNotUp)):
		return nil, cfg, nil
	case err == nil:
		return nil, nil, &absentError{fmt.Sprintf("stack '%s' is not up; name it with -c or --upper", r.Name)}
	}
	return nil, nil, notUp(err)
}

// config is that of a stack which may be down.
func (o *pivotOptions) config() (c stack.Config, err error) {
	if o.file != "" {
		if c, err = stack.ReadFile(o.file); err != nil {
			return c, &usageError{err}
		}
	}
	if o.upper != "" {
		c.Upper.Dir = o.upper
	}
	cwd, err := os.Getwd()
	if err != nil {
		return c, err
	}
	if len(o.Lowers) > 0 {
		c.Lowers = o.Lowers
	}
	if c.UpperDir() != "" && (len(c.Lowers) == 0 || c.StoreDir == "") {
		made, err := stack.ReadMade(c.UpperDir())
		switch {
		case err == nil:
			err = c.AsMade(made)
		case len(c.Lowers) > 0 && (errors.Is(err, stack.ErrNotMade) || errors.Is(err, stack.ErrMadeDamaged)):
			err = nil // who moves the upper warns
		case errors.Is(err, stack.ErrMadeDamaged):
			err = fmt.Errorf("%w; which lowers the upper has is known only from its strata.toml: give it with -c", err)
		}
		if err != nil {
			return c, err
		}
	}
	if c, err = c.Resolve(cwd); err != nil {
		return c, &usageError{err}
	}
	return c, nil
}

// pivotServed asks the process that serves the stack.
func pivotServed(ctx context.Context, g *globals, o pivotOptions, r *stack.Run, cfg *stack.Config) error {
	if o.resume || o.rollback {
		return fmt.Errorf("stack '%s' is up: a pivot that was interrupted was completed or undone when it came up", r.Name)
	}
	if len(o.Lowers) == 0 && o.file != "" {
		o.Lowers = cfg.Lowers
	}
	var err error
	if o.Substituters, err = g.givenSubstituters(); err != nil {
		return err
	}
	res, err := r.Pivot(ctx, o.PivotOptions)
	if err != nil {
		return err
	}
	return o.tell(g, res, cfg)
}

// pivotDown moves the upper of a stack that is not up, in a user namespace if that is needed.
func pivotDown(ctx context.Context, g *globals, o pivotOptions, cfg stack.Config) error {
	if os.Getenv(upChildEnv) == "" {
		if again, err := startAgain(ctx, g, cfg, false); again || err != nil {
			return err
		}
	}
	_ = os.Unsetenv(upChildEnv)
	_, parts, err := stackParts(ctx, g, cfg)
	if err != nil {
		return err
	}
	var res *stack.PivotResult
	switch {
	case o.rollback:
		if err := stack.RollBackPivot(ctx, cfg, parts); err != nil {
			return noPivot(err)
		}
		return g.out.println(fmt.Sprintf("the pivot of '%s' is undone", cfg.Name))
	case o.resume:
		res, err = stack.ContinuePivot(ctx, cfg, parts, o.PivotOptions)
	default:
		res, err = stack.MoveUpper(ctx, cfg, parts, o.PivotOptions)
	}
	if err != nil {
		return noPivot(err)
	}
	return o.tell(g, res, &cfg)
}

// noPivot makes the error one about something that is not there.
func noPivot(err error) error {
	if errors.Is(err, pivot.ErrNoJob) || errors.Is(err, stack.ErrNoUpper) {
		return &absentError{err.Error()}
	}
	return err
}

// tell prints what was done, or would be.
func (o *pivotOptions) tell(g *globals, res *stack.PivotResult, cfg *stack.Config) error {
	var err error
	if o.json {
		err = g.out.printJSON(res)
	} else {
		err = printPivot(g.out, res)
	}
	if res.Refused != "" {
		return errors.Join(err, errors.New("the upper cannot be moved as it is: see --rebuild, --drop-missing and --old-lower"))
	}
	if o.file != "" && len(o.lowers) > 0 && res.Done && cfg != nil {
		g.log().Warn(fmt.Sprintf("'%s' has to name the new lowers, too, or the next 'strata up' with it moves the upper back", o.file))
	}
	return err
}

func printPivot(out *output, res *stack.PivotResult) error {
	lines := []string{}
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for _, c := range res.Changes {
		add("%s", c)
	}
	p := res.Plan
	switch {
	case res.Refused != "":
		add("%s", res.Refused)
	case p == nil:
		add("there is nothing to be done to the upper")
	default:
		add("  kept        %6d objects, %s", p.Kept.Objects, size(p.Kept.NarBytes))
		add("  copied up   %6d objects, %s", p.Copied.Objects, size(p.Copied.NarBytes))
		add("  duplicates  %6d objects, %s, dropped from the upper", p.Duplicates.Objects, size(p.Duplicates.NarBytes))
		add("  removed     %6d objects, %s", p.Removed.Objects, size(p.Removed.NarBytes))
		add("  rows        %6d dropped, %d changed, %d added", p.Rows.Dropped, p.Rows.Changed, p.Rows.Added)
		add("  roots       %6d lead to nothing afterwards, %d of them removed", p.Roots.Lost, p.Roots.Removed)
		add("  layer       %6d whiteouts and %d entries that hide something, %d parts, %d with old marks", p.Layer.Whiteouts, p.Layer.Hiding, p.Layer.Parts, p.Layer.Bound+p.Layer.Merged)
		for _, c := range p.Conflicts {
			add("other contents in '%s', the %s's count: %s", c.Lower, c.Keeps, c.Path)
		}
		for _, m := range p.Missing {
			add("given up: %s", m.Path)
		}
		for _, l := range p.LostRoots {
			add("gc root that leads to nothing: %s", l.Link)
		}
	}
	if res.Done {
		add("stack '%s' has its new lowers", res.Stack)
	}
	for _, by := range res.StillUsed {
		add("over the old lowers still runs %s", by)
	}
	for _, l := range lines {
		if err := out.println(l); err != nil {
			return err
		}
	}
	return nil
}
