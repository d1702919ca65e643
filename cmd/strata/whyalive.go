package main

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

type whyAliveOptions struct {
	nearest bool
	json    bool
}

func newWhyAliveCommand(g *globals) *cobra.Command {
	var o whyAliveOptions
	cmd := &cobra.Command{
		Use:   "why-alive PATH...",
		Short: "Print what keeps paths from being garbage",
		Long: `Print, for each path, the garbage collector roots that keep it alive, nearest first,
where each comes from, and a shortest way from the root to the path. A step that is
no reference is named by the setting that makes it one: keep-outputs, keep-derivations.`,
		Args: someArgs,
		RunE: runner(func(ctx context.Context, args []string) error { return runWhyAlive(ctx, g, o, args) }),
	}
	f := cmd.Flags()
	f.BoolVar(&o.nearest, "nearest", false, "print only the nearest root of each path")
	f.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func runWhyAlive(ctx context.Context, g *globals, o whyAliveOptions, args []string) error {
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
		if o.json {
			all := make([]whyAliveJSON, len(paths))
			for i, p := range paths {
				all[i] = whyAliveJSON{Path: st.Dir().Print(p), Alive: len(reasons[i]) > 0, Roots: reasonsJSON(st.Dir(), reasons[i])}
			}
			return g.out.printJSON(all)
		}
		for i, p := range paths {
			if err := printReasons(g.out, st.Dir(), p, reasons[i]); err != nil {
				return err
			}
		}
		return nil
	})
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
