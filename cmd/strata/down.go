package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/strata-nix/strata/stack"
)

// stackSelection says which stacks a command is about.
type stackSelection struct {
	file  string
	upper string
	names []string
}

func (s *stackSelection) addFlags(f *pflag.FlagSet) {
	f.StringVarP(&s.file, "config", "c", "", "the stack that `FILE` (strata.toml) describes")
	f.StringVar(&s.upper, "upper", "", "the stack with the upper `DIR`")
}

// any tells whether stacks are meant, and not the store of --store.
func (s *stackSelection) any() bool { return s.file != "" || s.upper != "" || len(s.names) > 0 }

// oneWay refuses to choose in several ways at once.
func (s *stackSelection) oneWay() error {
	if s.file != "" && s.upper != "" || len(s.names) > 0 && s.file+s.upper != "" {
		return &usageError{errors.New("give one stack: its name, its strata.toml or its upper")}
	}
	return nil
}

// runs gives the stacks that are meant; without a selection all there are. One
// that was asked for and is not up is an error.
func (s *stackSelection) runs() ([]*stack.Run, error) {
	dirs := []string{}
	if s.file != "" {
		cfg, err := stack.ReadFile(s.file)
		if err != nil {
			return nil, &usageError{err}
		}
		dirs = append(dirs, cfg.UpperDir())
	}
	if s.upper != "" {
		dirs = append(dirs, s.upper)
	}
	if len(dirs)+len(s.names) == 0 {
		return stack.List()
	}
	var all []*stack.Run
	var errs []error
	add := func(r *stack.Run, err error) {
		if err != nil {
			errs = append(errs, notUp(err))
			return
		}
		all = append(all, r)
	}
	for _, dir := range dirs {
		add(stack.FindUpper(dir))
	}
	for _, name := range s.names {
		add(stack.Find(name))
	}
	return all, errors.Join(errs...)
}

// notUp makes the error one about something that is not there.
func notUp(err error) error {
	if errors.Is(err, stack.ErrNotUp) {
		return &absentError{err.Error()}
	}
	return err
}

type downOptions struct {
	stackSelection
	lazy    bool
	timeout time.Duration
}

func newDownCommand(g *globals) *cobra.Command {
	var o downOptions
	cmd := &cobra.Command{
		Use:   "down [NAME...]",
		Short: "Take a layered store down",
		Long: `End the 'strata up' that serves a layered store, which may finish what is under way
for some seconds, and wait until it has unmounted everything. What a killed
'strata up' left mounted is removed, too.

The stack is named, or found by its strata.toml or its upper; if there is just
one, it is meant.

A mount that is in use stays, and the processes that use it are told.`,
		Example: "  strata down dev\n  strata down -c strata.toml --lazy",
		Args:    anyArgs,
		RunE: runner(func(ctx context.Context, args []string) error {
			o.names = args
			return runDown(ctx, g, o)
		}),
	}
	f := cmd.Flags()
	o.addFlags(f)
	f.BoolVar(&o.lazy, "lazy", false, "detach mounts that are in use; they live on with those who use them")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "give up when the process has not ended after that `DURATION`")
	return cmd
}

func runDown(ctx context.Context, g *globals, o downOptions) error {
	runs, err := o.runs()
	if err != nil {
		return err
	}
	if selected := len(o.names) > 0 || o.file != "" || o.upper != ""; !selected && len(runs) != 1 {
		if len(runs) == 0 {
			return &absentError{"no stack is up"}
		}
		var names []string
		for _, r := range runs {
			names = append(names, r.Name)
		}
		return &usageError{fmt.Errorf("there are several stacks; say which: %s", strings.Join(names, ", "))}
	}
	var errs []error
	for _, r := range runs {
		if err := downOne(ctx, g, o, r); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func downOne(ctx context.Context, g *globals, o downOptions, r *stack.Run) error {
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("not within %s", o.timeout))
	defer cancel()
	if err := os.Chdir("/"); err != nil { // or we would be in our own way
		return err
	}
	if err := stack.Down(ctx, r, stack.DownOptions{Lazy: o.lazy}); err != nil {
		return notUp(err)
	}
	return g.out.println(fmt.Sprintf("stack '%s' is down", r.Name))
}
