package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/stack"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

type checkOptions struct {
	stackSelection
	check.Options
	json bool
}

func newCheckCommand(g *globals) *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use:   "check [NAME]",
		Short: "Look for damage in all layers of a store, and mend it",
		Long: `Compare what a store says with what is there: rows of databases with objects, layers
with each other, the mount with the layers, locks, roots, and the databases with
themselves. All that is wrong is told, with what follows from it and what a repair would
do; nothing is written without --repair.

Of a layered store all layers are looked at. It is the store that --store says, or the
stack that is named, or found by its strata.toml or upper. A stack may be up, or down;
then it is mounted for as long as the check takes, where nobody else sees it. An upper on
a read-only file system is looked at as it lies.

With --contents every object is read and compared with its hash, and metadata and
signatures are looked at. An interrupted check goes on with --resume.

A repair takes an object from another layer that has it, from a substituter, or builds
it anew. What nobody has stays as it is, unless --drop gives it up, with all that refers
to it; on a terminal that is asked. A lower is never written to: what it lost is put
into the upper.

The exit status is 0 when nothing is damaged, or not any more; things that only take
space or order are told, but are no damage. It is 4 when damage is left, and 1 when
something could not be looked at.`,
		Example: `  strata check
  strata check dev --contents --repair
  strata check -c strata.toml --layer upper --json`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: runner(func(ctx context.Context, args []string) error {
			o.names = args
			return runCheck(ctx, g, o)
		}),
	}
	f := cmd.Flags()
	o.addFlags(f)
	f.BoolVar(&o.Contents, "contents", false, "read all objects and compare them with their hashes")
	f.StringArrayVar(&o.Layers, "layer", nil, "check only the layer with this `NAME` or number, 0 for the upper; may be repeated")
	f.BoolVar(&o.Repair, "repair", false, "mend what can be mended without losing anything")
	f.BoolVar(&o.Drop, "drop", false, "with --repair: give up what nobody has, with all that refers to it")
	f.BoolVar(&o.Resume, "resume", false, "with --contents: go on where an interrupted check has stopped")
	f.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func runCheck(ctx context.Context, g *globals, o checkOptions) error {
	switch {
	case o.Drop && !o.Repair:
		return &usageError{errors.New("--drop goes with --repair")}
	case o.Resume && !o.Contents:
		return &usageError{errors.New("--resume goes with --contents")}
	}
	if err := o.oneWay(); err != nil {
		return err
	}
	if o.Repair && !o.Drop && !o.json && isTerminal(g.stderr) && isTerminalInput(g.stdin) {
		o.Ask = askToDrop(ctx, g)
	}
	if o.any() {
		return o.checkStack(ctx, g)
	}
	return o.checkStore(ctx, g)
}

// checkStore checks the store of --store.
func (o *checkOptions) checkStore(ctx context.Context, g *globals) error {
	c, err := g.config()
	if err != nil {
		return err
	}
	c.tolerant = true
	return g.with(ctx, func(st store.Store) error {
		checker, ok := store.As[check.Checker](st)
		if !ok {
			return &store.UnsupportedError{
				Op: "check", Store: st.URI(),
				Why: "it has to be opened by its files: name the stack, or give the store as 'local' or 'local-overlay' with --store",
			}
		}
		report, err := checker.Check(ctx, o.Options)
		return o.print(g, st.URI(), report, err)
	})
}

// checkStack checks a stack that is up, or one that is down and of which the
// configuration is known.
func (o *checkOptions) checkStack(ctx context.Context, g *globals) (err error) {
	runs, err := o.runs()
	var absent *absentError
	if err != nil && !errors.As(err, &absent) {
		return err
	}
	var up *stack.CheckUp
	var name string
	isUp := false
	if len(runs) == 1 {
		if isUp, err = runs[0].Up(); err != nil {
			return fmt.Errorf("stack '%s': %w", runs[0].Name, err)
		}
	}
	switch {
	case isUp:
		name = runs[0].Name
		if entered, err := enterStack(ctx, runs[0]); entered || err != nil {
			return err
		}
		parts, err := o.parts(g, nil, storepath.Dir(runs[0].StoreDir))
		if err != nil {
			return err
		}
		up, err = runs[0].OpenToCheck(ctx, parts)
		if err != nil {
			return err
		}
	case o.file != "" || o.upper != "":
		cfg, err := o.configDown()
		if err != nil {
			return err
		}
		if entered, err := privately(ctx); entered || err != nil {
			return err
		}
		name = cfg.Name
		if up, err = o.openDown(ctx, g, cfg); err != nil {
			return err
		}
	default:
		return &absentError{fmt.Sprintf("stack '%s' is not up; give its strata.toml with -c or its upper with --upper to have it checked all the same", o.names[0])}
	}
	defer func() { err = errors.Join(err, up.Close()) }()
	report, err := up.Check(ctx, o.Options)
	return o.print(g, name, report, err)
}

// openDown opens the layers of a stack that is down.
func (o *checkOptions) openDown(ctx context.Context, g *globals, cfg stack.Config) (*stack.CheckUp, error) {
	parts, err := o.parts(g, cfg.Settings, cfg.StoreDir)
	if err != nil {
		return nil, err
	}
	return cfg.OpenToCheck(ctx, parts)
}

// configDown describes a stack that is down: its strata.toml, or what its upper was made for.
func (o *checkOptions) configDown() (stack.Config, error) {
	if o.file == "" {
		p := pivotOptions{stackSelection: o.stackSelection}
		cfg, err := p.config()
		if errors.Is(err, stack.ErrNotMade) {
			err = &absentError{fmt.Sprintf("there is no stack with the upper '%s': %v", o.upper, err)}
		}
		return cfg, err
	}
	cfg, err := stack.ReadFile(o.file)
	if err == nil {
		cfg, err = cfg.Resolve(".")
	}
	if err != nil {
		return cfg, &usageError{err}
	}
	return cfg, nil
}

// parts are what a stack is opened with.
func (o *checkOptions) parts(g *globals, settings map[string]string, dir storepath.Dir) (stack.Parts, error) {
	for name, value := range settings {
		g.options = append([]string{name + "=" + value}, g.options...)
	}
	c, err := g.config()
	if err != nil {
		return stack.Parts{}, err
	}
	c.dir = dir
	upper := c.local
	upper.Pool = c.pool
	return stack.Parts{Open: c.open, Upper: upper, Version: release, Log: g.log()}, nil
}

// print prints a report, and makes an error of damage that is left.
func (o *checkOptions) print(g *globals, name string, r *check.Report, err error) error {
	var layer *check.LayerError
	if errors.As(err, &layer) {
		return &usageError{err}
	}
	if r == nil {
		return err
	}
	if o.json {
		err = errors.Join(g.out.printJSON(newCheckJSON(name, r, err == nil)), err)
	} else {
		err = errors.Join(printCheck(g.out, name, r, err == nil, o.Repair, g.verbose > 0), err)
	}
	if damage, _ := r.Left(); err == nil && damage > 0 {
		return &damageError{damage}
	}
	if err == nil && len(r.Errors) > 0 {
		return errors.New("not everything could be looked at")
	}
	return err
}

// damageError says that a store is damaged.
type damageError struct{ count int }

func (e *damageError) Error() string {
	if e.count == 1 {
		return "1 thing is damaged"
	}
	return fmt.Sprintf("%d things are damaged", e.count)
}

func (e *damageError) Unwrap() error { return store.ErrDamaged }

// isTerminalInput tells whether somebody can answer.
func isTerminalInput(r io.Reader) bool {
	w, ok := r.(io.Writer)
	return ok && isTerminal(w)
}

// askToDrop asks whether something is to be given up.
func askToDrop(ctx context.Context, g *globals) func(context.Context, *check.Finding, []storepath.Path) (bool, error) {
	answers := g.input(ctx)
	return func(_ context.Context, f *check.Finding, referrers []storepath.Path) (bool, error) {
		g.progress.hide()
		question := fmt.Sprintf("%s\nNobody has it. Give it up", f.Sentence())
		if len(referrers) > 0 {
			question += fmt.Sprintf(", with the %d paths that refer to it", len(referrers))
		}
		if _, err := fmt.Fprint(g.stderr, printable(question)+"? [y/N] "); err != nil {
			return false, err
		}
		answer, err := answers.ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		answer = strings.ToLower(strings.TrimSpace(answer))
		return answer == "y" || answer == "yes", nil
	}
}
