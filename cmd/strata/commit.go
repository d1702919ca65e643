package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/merge"
	"github.com/strata-nix/strata/stack"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/storepath"
)

type commitOptions struct {
	stackSelection
	merging
	closure bool
	flatten bool
	target  string
}

func newCommitCommand(g *globals) *cobra.Command {
	var o commitOptions
	cmd := &cobra.Command{
		Use:   "commit [NAME] TARGET",
		Short: "Make a lower store of what is in an upper layer",
		Long: `Write the objects of a stack's upper layer, and what its database says of them, as a
new lower store: a directory with nix/store and nix/var/nix/db in it, or an EROFS
image of one. The upper stays as it is. The stack may be up; what is written is kept
from being collected meanwhile.

By default the new lower is meant to lie over the same lowers: what its objects refer to
there it only knows. With --closure it has these objects, too, and can be used alone;
with --flatten it has everything that the stack has. For both the stack must be up.

The contents are compared with their hashes as they are written. The target appears when
everything is on disk. The same objects give the same image, byte by byte; with
SOURCE_DATE_EPOCH set, that is when the paths were registered, else 1.`,
		Example: `  strata commit dev /srv/dev.erofs
  strata commit -c strata.toml --closure --path ./result /srv/release`,
		Args: usageArgs(cobra.RangeArgs(1, 2)),
		RunE: runner(func(ctx context.Context, args []string) error {
			o.names, o.target = args[:len(args)-1], args[len(args)-1]
			return runCommit(ctx, g, o)
		}),
	}
	f := cmd.Flags()
	o.stackSelection.addFlags(f)
	o.merging.addFlags(f)
	f.BoolVar(&o.closure, "closure", false, "with the lowers' objects that the upper's refer to")
	f.BoolVar(&o.flatten, "flatten", false, "with all objects of the lowers")
	cmd.MarkFlagsMutuallyExclusive("closure", "flatten")
	return cmd
}

func runCommit(ctx context.Context, g *globals, o commitOptions) (err error) {
	if _, err := o.image(o.target); err != nil {
		return err
	}
	l, err := o.layers()
	if err != nil {
		return err
	}
	up := false
	if l.Run != nil {
		if up, err = l.Run.Up(); err != nil {
			return fmt.Errorf("stack '%s': %w", l.Name, err)
		}
	}
	if up {
		if entered, err := enterStack(ctx, l.Run); entered || err != nil {
			return err
		}
	} else if l.Lowers = nil; o.closure || o.flatten {
		return &usageError{errors.New("--closure and --flatten need the lowers, so that the stack must be up")}
	}
	if o.target, err = filepath.Abs(o.target); err != nil {
		return err
	}
	layers, err := o.open(ctx, g, l)
	defer func() {
		for _, layer := range layers {
			err = errors.Join(err, layer.Store.Close())
		}
	}()
	if err != nil {
		return err
	}
	return o.commit(ctx, g, l, layers)
}

// layers finds the stack that is meant: one that is up, or the places of one that is not.
func (o *commitOptions) layers() (*stack.Layers, error) {
	runs, err := o.runs()
	switch {
	case err == nil && len(runs) == 1:
		return stack.LayersOf(runs[0])
	case err == nil && len(runs) == 0:
		return nil, &absentError{"no stack is up; say with -c or --upper which upper is meant"}
	case err == nil:
		return nil, &usageError{errors.New("there are several stacks; say which")}
	case !errors.Is(err, errAbsent) || len(o.names) > 0:
		return nil, err
	}
	cwd, wdErr := os.Getwd()
	if wdErr != nil {
		return nil, wdErr
	}
	cfg := stack.Config{Upper: stack.Upper{Dir: o.stackSelection.upper}}
	if o.file != "" {
		if cfg, err = stack.ReadFile(o.file); err != nil {
			return nil, &usageError{err}
		}
	}
	if cfg.Upper.Tmpfs > 0 {
		return nil, &absentError{"the stack is not up, and its upper went with it"}
	}
	l, err := stack.LayersOfConfig(cfg, cwd)
	if err != nil {
		return nil, &usageError{err}
	}
	if _, err := os.Stat(l.Layer); err != nil {
		return nil, &absentError{fmt.Sprintf("there is no upper: %v", err)}
	}
	return l, nil
}

// open opens the layers. They are to be closed also after an error.
func (o *commitOptions) open(ctx context.Context, g *globals, l *stack.Layers) ([]merge.Layer, error) {
	c, err := g.config()
	if err != nil {
		return nil, err
	}
	// A second opener must not clear up after the first one, so it only reads.
	upper, err := local.Open(ctx, local.Options{Dir: l.StoreDir, Real: l.Layer, State: l.State, ReadOnly: true})
	if err != nil {
		return nil, err
	}
	layers := []merge.Layer{{Name: "upper", Store: upper, Dir: l.Layer, Take: merge.All}}
	take := merge.Infos
	switch {
	case o.closure:
		take = merge.Referred
	case o.flatten:
		take = merge.All
	}
	for _, lower := range l.Lowers {
		ref, err := store.ParseReference(lower.URI)
		if err != nil {
			return layers, err
		}
		st, err := c.open(ctx, ref)
		if err != nil {
			return layers, fmt.Errorf("lower '%s': %w", lower.Name, err)
		}
		layers = append(layers, merge.Layer{Name: lower.Name, Store: st, Dir: lower.Dir, Take: take})
	}
	return layers, nil
}

func (o *commitOptions) commit(ctx context.Context, g *globals, l *stack.Layers, layers []merge.Layer) error {
	opts, err := o.roots(l.StoreDir)
	if err != nil {
		return err
	}
	roots := gc.NewTempRootsFile(l.State, strconv.Itoa(os.Getpid())+".commit", l.StoreDir)
	defer func() { _ = roots.Close() }()
	plan, err := planHeld(ctx, layers, opts, roots.Hold)
	if err != nil {
		return err
	}
	if len(plan.Missing) > 0 && len(l.Lowers) > 0 {
		return &store.DamageError{
			Layer: "stack '" + l.Name + "'", Path: l.StoreDir.Print(plan.Missing[0]), Why: fmt.Sprintf("it is needed, and no layer has its object (and %d more)", len(plan.Missing)-1),
		}
	}
	return o.write(ctx, g, plan, l.StoreDir, o.target)
}

// planHeld plans, and keeps the upper's objects that are planned from being collected. What was
// collected before that could be done is planned without.
func planHeld(ctx context.Context, layers []merge.Layer, o merge.Options, hold func(context.Context, []storepath.Path) error) (*merge.Plan, error) {
	for {
		plan, err := merge.MakePlan(ctx, layers, o)
		if err != nil {
			return nil, err
		}
		paths := plan.Of(0)
		if len(paths) == 0 {
			return plan, nil
		}
		if err := hold(ctx, paths); err != nil {
			return nil, err
		}
		valid, err := layers[0].Store.ValidPaths(ctx, paths)
		if err != nil {
			return nil, err
		}
		if len(valid) == len(paths) {
			return plan, nil
		}
	}
}
