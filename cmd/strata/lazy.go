package main

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/strata-nix/strata/store"
)

func newLazyCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lazy",
		Short: "Use binary caches whose objects arrive when they are read",
		Long: `Use binary caches whose objects arrive when they are read: all that a cache has is
there at once, nothing is downloaded until a program opens a file, and what was
read once is kept on disk.

A layered store can have such a lower, see 'lazy' in strata.toml; these commands
are for a cache by itself, and for what is kept.`,
		Example: `  strata lazy mount https://cache.nixos.org /mnt/cache
  strata lazy status`,
		Args: noSubcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newLazyMountCommand(g), newLazyPrefetchCommand(g), newLazyProfileCommand(g), newLazyStatusCommand(g), newLazyEvictCommand(g), newLazyCheckCommand(g), newLazyKeepCommand(g), newLazyServeCommand(g))
	return cmd
}

// lazyFlags are those that say what a lazy store is made of.
type lazyFlags struct {
	cache, size, minFree string
	age                  time.Duration
	pinned               []string
	manifest             string
	offline, noListings  bool
	patience             time.Duration
	verify               string
}

func (l *lazyFlags) add(f *pflag.FlagSet) {
	f.StringVar(&l.cache, "cache", "", "keep what is fetched in `DIR` (default: /var/cache/strata/lazy, or below XDG_CACHE_HOME)")
	f.StringVar(&l.size, "cache-size", "", "keep at most `SIZE`, such as 20G")
	f.StringVar(&l.minFree, "cache-min-free", "", "leave `SIZE` free on the file system")
	f.DurationVar(&l.age, "cache-age", 0, "keep nothing that was not used for `TIME`, such as 720h")
	f.StringArrayVar(&l.pinned, "pinned", nil, "only the closure of store path `PATH` is valid; may be repeated")
	f.StringVar(&l.manifest, "manifest", "", "only the store paths listed in `FILE` are valid")
	f.BoolVar(&l.offline, "offline", false, "ask no cache anything; what is on disk is there")
	f.BoolVar(&l.noListings, "no-listings", false, "do not use listings, which nobody has signed")
	f.StringVar(&l.verify, "verify", "", "`WHEN` contents are compared: object (default), always, or stream")
	f.DurationVar(&l.patience, "patience", 0, "how long a cache may take to answer, and a download make no progress (default 30s)")
}

// reference is the lazy store that the flags describe, of these caches, shown at real.
func (l *lazyFlags) reference(from []string, real string) (store.Reference, error) {
	p := map[string][]string{"from": from, "real": {real}}
	set := func(name, value string) {
		if value != "" {
			p[name] = []string{value}
		}
	}
	set("cache", l.cache)
	for name, text := range map[string]string{"cache-size": l.size, "cache-min-free": l.minFree} {
		if text == "" {
			continue
		}
		n, err := parseSize(text)
		if err != nil {
			return store.Reference{}, &usageError{fmt.Errorf("--%s: %w", name, err)}
		}
		set(name, strconv.FormatUint(min(n, math.MaxInt64), 10))
	}
	if l.age > 0 {
		set("cache-age", strconv.FormatInt(int64(l.age/time.Second), 10))
	}
	if len(l.pinned) > 0 {
		p["pinned"] = l.pinned
	}
	set("manifest", l.manifest)
	set("verify", l.verify)
	if l.offline {
		set("offline", "true")
	}
	if l.noListings {
		set("listings", "false")
	}
	if l.patience > 0 {
		set("patience", strconv.FormatInt(int64((l.patience+time.Second-1)/time.Second), 10))
	}
	return store.Reference{Scheme: "lazy", Params: p}, nil
}

func newLazyServeCommand(g *globals) *cobra.Command {
	var o lazyServeOptions
	cmd := &cobra.Command{
		Use:    "serve",
		Short:  "Serve a mount that another process keeps",
		Hidden: true, // it is started by 'lazy mount' and by stacks
		Args:   noArgs,
		RunE:   runner(func(ctx context.Context, _ []string) error { return runLazyServe(ctx, g, o) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.state, "state", "", "what lasts as long as the mount is in `DIR`")
	f.StringVar(&o.socket, "socket", "", "answer store clients on the socket at `PATH`")
	o.lazyBound.addFlags(f)
	f.BoolVar(&o.takeOver.After, "take-over", false, "another process served the mount before")
	f.BoolVar(&o.takeOver.Failing, "failing", false, "several have ended soon after they began")
	return cmd
}
