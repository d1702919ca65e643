package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/store"
)

type pingOptions struct{ json bool }

func newPingCommand(g *globals) *cobra.Command {
	var o pingOptions
	cmd := &cobra.Command{
		Use:     "ping",
		Aliases: []string{"store-info"},
		Short:   "Test whether a store can be opened, and say what it is",
		Long:    "Open a store and print its URI, its version, and whether it trusts us.",
		Args:    noArgs,
		RunE:    runner(func(ctx context.Context, _ []string) error { return runPing(ctx, g, o) }),
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// pingJSON has the members of `nix store info --json`, and the layers.
type pingJSON struct {
	URL     string      `json:"url"`
	Version string      `json:"version,omitempty"`
	Trusted *bool       `json:"trusted,omitempty"`
	Layers  []layerJSON `json:"layers,omitempty"`
}

type layerJSON struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// versioned is a store on the other side of a connection.
type versioned interface{ ServerVersion() string }

func runPing(ctx context.Context, g *globals, o pingOptions) error {
	return g.with(ctx, func(st store.Store) error {
		j, err := ping(ctx, st)
		if err != nil {
			return err
		}
		if o.json {
			return g.out.printJSON(j)
		}
		return printPing(g.out, j)
	})
}

func ping(ctx context.Context, st store.Store) (*pingJSON, error) {
	j := &pingJSON{URL: st.URI(), Version: version}
	if v, ok := store.As[versioned](st); ok {
		j.Version = v.ServerVersion()
	}
	if t, ok := store.As[store.Truster](st); ok {
		trust, err := t.Trust(ctx)
		if err != nil {
			return nil, err
		}
		if trust != store.TrustUnknown {
			trusted := trust == store.Trusted
			j.Trusted = &trusted
		}
	}
	if l, ok := store.As[store.Layered](st); ok {
		for _, layer := range l.Layers() {
			j.Layers = append(j.Layers, layerJSON{layer.Name, layer.Store.URI()})
		}
	}
	return j, nil
}

func printPing(out *output, j *pingJSON) error {
	if err := out.printf("Store URL: %s\n", j.URL); err != nil {
		return err
	}
	if j.Version != "" {
		if err := out.printf("Version: %s\n", j.Version); err != nil {
			return err
		}
	}
	if j.Trusted != nil {
		if err := out.printf("Trusted: %v\n", *j.Trusted); err != nil {
			return err
		}
	}
	for _, l := range j.Layers {
		if err := out.printf("Layer: %s\n", l.Name); err != nil {
			return err
		}
	}
	return nil
}
