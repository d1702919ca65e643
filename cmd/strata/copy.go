package main

import (
	"cmp"
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

type copyOptions struct {
	selection
	from, to    string
	noCheckSigs bool
	substitute  bool
	jobs        int
	dryRun      bool
	json        bool
}

func newCopyCommand(g *globals) *cobra.Command {
	var o copyOptions
	cmd := &cobra.Command{
		Use:   "copy [--from URI] [--to URI] PATH...",
		Short: "Copy paths from one store to another",
		Long: `Copy store paths, and with --closure what they refer to, from one store to
another. What is valid there already is passed over, so a copy that was
interrupted goes on where it was. The store that --from or --to does not name is
the one of --store.

<derivation>^out,dev and <derivation>^* stand for outputs of a derivation in the
first store; with those of content-addressed derivations goes the knowledge of
what made them.

Between stores of different directories only objects can be copied that are
content-addressed and refer to nothing.`,
		Example: `  strata copy --from daemon --to local?root=/mnt --closure /nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-hello
  strata copy --from https://cache.example.org --closure --from-file wanted
  strata copy --to ssh-ng://builder --substitute-on-destination -r ./result`,
		Args: anyArgs,
		RunE: runner(func(ctx context.Context, args []string) error { return runCopy(ctx, g, o, args) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "the store to copy from, as a `URI`")
	f.StringVar(&o.to, "to", "", "the store to copy to, as a `URI`")
	o.addFlags(f, "copy")
	f.BoolVar(&o.noCheckSigs, "no-check-sigs", false, "copy also what no trusted key has signed, if we may")
	f.BoolVarP(&o.substitute, "substitute-on-destination", "s", false, "let the destination get from its substituters what they have")
	f.IntVarP(&o.jobs, "jobs", "j", 0, "copy `N` objects at once (default: as the destination likes)")
	f.BoolVar(&o.dryRun, "dry-run", false, "only print the paths that would be copied")
	f.BoolVar(&o.json, "json", false, "print JSON about what was copied")
	return cmd
}

func runCopy(ctx context.Context, g *globals, o copyOptions, args []string) (err error) {
	if o.from == "" && o.to == "" {
		return &usageError{errors.New("say where to copy to, or from, with --to or --from")}
	}
	if o.jobs < 0 {
		return &usageError{errors.New("--jobs must not be negative")}
	}
	from := cmp.Or(o.from, g.storeURI)
	dir, err := g.storeDir(from)
	if err != nil {
		return err
	}
	if err := o.parse(ctx, g, dir, args); err != nil {
		return err
	}
	src, err := g.openURI(ctx, from)
	if err != nil {
		return err
	}
	defer closeWith(src, &err)
	dst, err := g.openDestination(ctx, cmp.Or(o.to, g.storeURI))
	if err != nil {
		return err
	}
	defer closeWith(dst, &err)
	infos, err := o.infos(ctx, src)
	if err != nil {
		return err
	}
	t := &transfer{src: src, dst: dst, noCheckSigs: o.noCheckSigs, jobs: o.jobs}
	if err := t.plan(ctx, infos); err != nil {
		return err
	}
	activity.Logf(ctx, activity.Info, "copying %d paths (%s), %d are already there", len(t.items), size(t.size()), t.present)
	wanted := t.paths()
	if !o.dryRun {
		if err := o.copy(ctx, t); err != nil {
			return err
		}
		refreshOver(ctx, dst)
	}
	return o.print(g.out, dst.Dir(), wanted, t)
}

func (o copyOptions) copy(ctx context.Context, t *transfer) error {
	if o.substitute {
		if err := t.substitute(ctx); err != nil {
			return err
		}
	}
	if err := t.run(ctx, func(storepath.Path) {}); err != nil {
		return err
	}
	return t.realise(ctx, o.realised)
}

func closeWith(st store.Store, err *error) {
	if cerr := st.Close(); *err == nil {
		*err = cerr
	}
}

func (o copyOptions) print(out *output, dir storepath.Dir, wanted []storepath.Path, t *transfer) error {
	if o.json {
		return out.printJSON(struct {
			Copied       []string `json:"copied"`
			AlreadyThere int      `json:"alreadyThere"`
			NarSize      uint64   `json:"narSize"`
		}{dir.PrintAll(t.paths()), t.present, t.size()})
	}
	if !o.dryRun {
		return nil
	}
	for _, p := range dir.PrintAll(wanted) {
		if err := out.println(p); err != nil {
			return err
		}
	}
	return nil
}
