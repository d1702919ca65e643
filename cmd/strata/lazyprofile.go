package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/store/lazy"
)

func newLazyProfileCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "Look after what start-ups read",
		Long: `Look after profiles: which files a start-up read of the object that began it, and of
what that one refers to, in the order in which they were first read. They are
noted by whoever reads from a lazy mount, kept with what is kept on disk, and
fetched ahead when the object is read for the first time after the mount was
made. One can be exported, and imported elsewhere.`,
		Example: `  strata lazy profile list
  strata lazy profile export /nix/store/…-hello > hello.profile
  strata lazy profile import hello.profile`,
		Args: noSubcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var at string
	cmd.PersistentFlags().StringVar(&at, "at", "", "the `DIR` of the mount (default: the only one)")
	cmd.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List the objects that have a profile", Example: "  strata lazy profile list", Args: noArgs,
			RunE: runner(func(ctx context.Context, _ []string) error { return runProfileList(ctx, g, at) }),
		},
		&cobra.Command{
			Use: "export PATH", Short: "Print the profile of an object", Example: "  strata lazy profile export /nix/store/…-hello", Args: usageArgs(cobra.ExactArgs(1)),
			RunE: runner(func(ctx context.Context, args []string) error { return runProfileExport(ctx, g, at, args) }),
		},
		&cobra.Command{
			Use: "import FILE...", Short: "Add to profiles what files say, - for standard input", Example: "  strata lazy profile import hello.profile", Args: someArgs,
			RunE: runner(func(ctx context.Context, args []string) error { return runProfileImport(ctx, g, at, args) }),
		},
		&cobra.Command{
			Use: "remove PATH...", Short: "Forget profiles", Example: "  strata lazy profile remove /nix/store/…-hello", Args: someArgs,
			RunE: runner(func(ctx context.Context, args []string) error { return runProfileRemove(ctx, g, at, args) }),
		},
	)
	return cmd
}

// withLazyMount does something with the store of a mount.
func withLazyMount(ctx context.Context, g *globals, at string, f func(m *lazyMount, st *lazyStore) error) (err error) {
	m, err := lazyMountOf(at)
	if err != nil {
		return err
	}
	st, err := m.open(ctx, g)
	if err != nil {
		return err
	}
	defer closeWith(st, &err)
	return f(m, st)
}

func runProfileList(ctx context.Context, g *globals, at string) error {
	return withLazyMount(ctx, g, at, func(_ *lazyMount, st *lazyStore) error {
		roots, err := st.cache.Profiles(ctx)
		if err != nil {
			return err
		}
		for _, root := range roots {
			p, err := st.cache.Profile(root)
			if err != nil {
				g.log().Warn(err.Error())
			}
			if p == nil {
				continue
			}
			if err := g.out.println(fmt.Sprintf("%s %d files", st.Dir().Print(root), len(p.Wants))); err != nil {
				return err
			}
		}
		return nil
	})
}

func runProfileExport(ctx context.Context, g *globals, at string, args []string) error {
	return withLazyMount(ctx, g, at, func(m *lazyMount, st *lazyStore) error {
		paths, err := lazyPaths(m, st, args)
		if err != nil {
			return err
		}
		p, err := st.cache.Profile(paths[0])
		if err != nil {
			return err
		}
		if p == nil {
			return &absentError{fmt.Sprintf("'%s' has no profile", st.Dir().Print(paths[0]))}
		}
		_, err = g.out.Write(p.Text())
		return err
	})
}

func runProfileImport(ctx context.Context, g *globals, at string, args []string) error {
	return withLazyMount(ctx, g, at, func(_ *lazyMount, st *lazyStore) error {
		for _, name := range args {
			p, err := readProfile(g, name)
			if err != nil {
				return err
			}
			if err := st.cache.AddProfile(ctx, p); err != nil {
				return err
			}
		}
		return nil
	})
}

func runProfileRemove(ctx context.Context, g *globals, at string, args []string) error {
	return withLazyMount(ctx, g, at, func(m *lazyMount, st *lazyStore) error {
		paths, err := lazyPaths(m, st, args)
		for _, p := range paths {
			err = errors.Join(err, st.cache.RemoveProfile(p))
		}
		return err
	})
}

// readProfile reads one from a file, "-" is standard input.
func readProfile(g *globals, name string) (*lazy.Profile, error) {
	var r io.Reader = g.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	text, err := io.ReadAll(io.LimitReader(r, lazy.MaxProfile+1))
	if err != nil {
		return nil, err
	}
	p, err := lazy.ParseProfile(text)
	if err != nil {
		return nil, fmt.Errorf("'%s': %w", name, err)
	}
	return p, nil
}
