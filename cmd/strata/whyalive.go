package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/stack"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

type whyAliveOptions struct {
	stackSelection
	nearest bool
	json    bool
}

func newWhyAliveCommand(g *globals) *cobra.Command {
	var o whyAliveOptions
	cmd := &cobra.Command{
		Use:   "why-alive [STACK] PATH...",
		Short: "Print what keeps paths from being garbage",
		Long: `Print, for each path, the garbage collector roots that keep it alive, nearest first,
where each comes from, and a shortest way from the root to the path. A step that is
no reference is named by the setting that makes it one: keep-outputs, keep-derivations.

It is the store that --store says which is asked, or the stack that is named before the
paths, or found by its strata.toml or upper. One that is down is brought up for it, if its
strata.toml is given.`,
		Example: "  strata why-alive ./result\n  strata why-alive dev /nix/store/…-hello",
		Args:    someArgs,
		RunE:    runner(func(ctx context.Context, args []string) error { return runWhyAlive(ctx, g, o, args) }),
	}
	f := cmd.Flags()
	o.addFlags(f)
	f.BoolVar(&o.nearest, "nearest", false, "print only the nearest root of each path")
	f.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func runWhyAlive(ctx context.Context, g *globals, o whyAliveOptions, args []string) error {
	args = o.takeName(g, args)
	if err := o.oneWay(); err != nil {
		return err
	}
	if o.any() {
		return o.ofStack(ctx, g, args)
	}
	paths, err := g.objects(args)
	if err != nil {
		return err
	}
	return g.with(ctx, func(st store.Store) error {
		valid, err := st.ValidPaths(ctx, paths)
		if err != nil {
			return err
		}
		if missing := storepath.NewSet(valid...).Missing(paths); len(missing) > 0 {
			return &store.InvalidPathError{Path: st.Dir().Print(missing[0])}
		}
		reasons, err := whyAlive(ctx, st, paths, o.nearest)
		if err != nil {
			return err
		}
		return o.print(g.out, st.Dir(), paths, reasons)
	})
}

// takeName takes the name of a stack from the arguments: the first of several that names no object.
func (o *whyAliveOptions) takeName(g *globals, args []string) (paths []string) {
	if o.any() || len(args) < 2 || strings.Contains(args[0], "/") {
		return args
	}
	if _, err := g.objects(args[:1]); err == nil {
		return args
	}
	o.names = args[:1]
	return args[1:]
}

// ofStack asks who collects the garbage of the stack that is meant.
func (o *whyAliveOptions) ofStack(ctx context.Context, g *globals, args []string) error {
	runs, err := o.runs()
	if o.file != "" && isNotUp(err) {
		return broughtUp(ctx, g, o.file, func(s *stack.Stack) error { return o.explain(ctx, g.out, s.Config.StoreDir, s, args) })
	}
	if err != nil {
		return err
	}
	return notUp(o.explain(ctx, g.out, storepath.Dir(runs[0].StoreDir), runs[0], args))
}

func (o *whyAliveOptions) explain(ctx context.Context, out *output, dir storepath.Dir, by store.Explainer, args []string) error {
	paths, err := parseObjects(dir, args)
	if err != nil {
		return err
	}
	reasons, err := by.WhyAlive(ctx, paths, o.nearest)
	if err != nil {
		return err
	}
	return o.print(out, dir, paths, reasons)
}

func (o *whyAliveOptions) print(out *output, dir storepath.Dir, paths []storepath.Path, reasons [][]store.Reason) error {
	if o.json {
		all := make([]whyAliveJSON, len(paths))
		for i, p := range paths {
			all[i] = whyAliveJSON{Path: dir.Print(p), Alive: len(reasons[i]) > 0, Roots: reasonsJSON(dir, reasons[i])}
		}
		return out.printJSON(all)
	}
	for i, p := range paths {
		if err := printReasons(out, dir, p, reasons[i]); err != nil {
			return err
		}
	}
	return nil
}

// whyAlive asks the store itself, or finds it out from what it can be asked for.
func whyAlive(ctx context.Context, st store.Store, paths []storepath.Path, nearest bool) ([][]store.Reason, error) {
	if e, ok := store.As[store.Explainer](st); ok {
		return e.WhyAlive(ctx, paths, nearest)
	}
	return gc.WhyAsking(ctx, st, paths, nearest)
}

type whyAliveJSON struct {
	Path  string       `json:"path"`
	Alive bool         `json:"alive"`
	Roots []reasonJSON `json:"roots"`
}

// reasonJSON is one root that keeps a path alive.
type reasonJSON struct {
	From  []rootOrigin `json:"from"`
	Chain []stepJSON   `json:"chain"`
}

type stepJSON struct {
	Path string `json:"path"`
	Via  string `json:"via,omitempty"`
}

func reasonsJSON(dir storepath.Dir, reasons []store.Reason) []reasonJSON {
	out := make([]reasonJSON, len(reasons))
	for i, r := range reasons {
		out[i] = reasonJSONOf(dir, r)
	}
	return out
}

func reasonJSONOf(dir storepath.Dir, r store.Reason) reasonJSON {
	out := reasonJSON{From: origins(r.Links), Chain: make([]stepJSON, len(r.Chain))}
	for i, s := range r.Chain {
		out.Chain[i] = stepJSON{Path: dir.Print(s.Path), Via: string(s.Via)}
	}
	return out
}

func origins(links []string) []rootOrigin {
	out := make([]rootOrigin, 0, len(links))
	for _, l := range slices.Sorted(slices.Values(links)) {
		if o := originOf(l); !slices.Contains(out, o) { // a process may have a file open twice
			out = append(out, o)
		}
	}
	return out
}

func printReasons(out *output, dir storepath.Dir, p storepath.Path, reasons []store.Reason) error {
	if len(reasons) == 0 {
		return out.printf("%s\n  nothing keeps it alive\n", dir.Print(p))
	}
	if err := out.println(dir.Print(p)); err != nil {
		return err
	}
	for _, r := range reasons {
		for _, o := range origins(r.Links) {
			if err := out.println("  " + o.String()); err != nil {
				return err
			}
		}
		indent := "  "
		for _, s := range r.Chain {
			line := indent + treeLast + dir.Print(s.Path)
			if s.Via != "" && s.Via != store.ByReference {
				line += " (" + string(s.Via) + ")"
			}
			if err := out.println(line); err != nil {
				return err
			}
			indent += treeNone
		}
	}
	return nil
}
