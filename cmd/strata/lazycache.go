package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/storepath"
)

type lazyPrefetchOptions struct {
	at        string
	noClosure bool
	jobs      int
	pin       string
	profiles  []string
}

func newLazyPrefetchCommand(g *globals) *cobra.Command {
	var o lazyPrefetchOptions
	cmd := &cobra.Command{
		Use:   "prefetch [PATH...]",
		Short: "Fetch objects before they are read",
		Long: `Fetch store objects of a lazy mount before somebody reads them, with all that they
refer to. Of objects with a signed file index only that comes which is not here.
Paths may be given as they show in the mount, or as store paths. With --profile, the
files are fetched that a start-up reads: of an object that has a profile, or as a file
says that 'strata lazy profile export' wrote.`,
		Example: `  strata lazy prefetch /mnt/cache/…-hello
  strata lazy prefetch --at /mnt/cache --pin work /nix/store/…-hello`,
		Args: anyArgs,
		RunE: runner(func(ctx context.Context, args []string) error { return runLazyPrefetch(ctx, g, o, args) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.at, "at", "", "the `DIR` of the mount (default: the only one, or that of the paths)")
	f.BoolVar(&o.noClosure, "no-closure", false, "fetch nothing but the paths themselves")
	f.IntVarP(&o.jobs, "jobs", "j", lazy.DefaultPrefetchJobs, "fetch `N` objects at once")
	f.StringArrayVar(&o.profiles, "profile", nil, "fetch what the profile `P` says, a file or a store path; may be repeated")
	f.StringVar(&o.pin, "pin", "", "keep what is fetched until 'evict --unpin NAME', under the `NAME`")
	return cmd
}

func runLazyPrefetch(ctx context.Context, g *globals, o lazyPrefetchOptions, args []string) (err error) {
	if o.jobs < 1 {
		return &usageError{errors.New("--jobs must be positive")}
	}
	if len(args)+len(o.profiles) == 0 {
		return &usageError{errors.New("say what is to be fetched: paths, or --profile")}
	}
	if o.pin != "" && len(args) == 0 {
		return &usageError{errors.New("--pin keeps objects: say their paths")}
	}
	at := o.at
	if at == "" && len(args) > 0 {
		if _, err := lazyMountOf(args[0]); err == nil {
			at = args[0]
		}
	}
	m, err := lazyMountOf(at)
	if err != nil {
		return err
	}
	st, err := m.open(ctx, g)
	if err != nil {
		return err
	}
	defer closeWith(st, &err)
	paths, err := lazyPaths(m, st, args)
	if err != nil {
		return err
	}
	if err := o.fetchProfiles(ctx, g, m, st); err != nil || len(args) == 0 {
		return err
	}
	var got []storepath.Path
	err = st.Prefetch(ctx, paths, lazy.PrefetchOptions{NoClosure: o.noClosure, Jobs: o.jobs, Done: func(p storepath.Path, err error) {
		if err == nil {
			got = append(got, p)
		}
	}})
	if err == nil && o.pin != "" {
		err = st.cache.Pin(o.pin, got)
	}
	return errors.Join(err, g.out.println(fmt.Sprintf("%d objects are here", len(got))))
}

// fetchProfiles fetches what profiles say.
func (o *lazyPrefetchOptions) fetchProfiles(ctx context.Context, g *globals, m *lazyMount, st *lazyStore) error {
	var wants []lazy.Want
	for _, name := range o.profiles {
		var p *lazy.Profile
		paths, err := lazyPaths(m, st, []string{name})
		if err == nil {
			p, err = st.cache.Profile(paths[0])
		} else {
			p, err = readProfile(g, name)
		}
		if err != nil {
			return err
		}
		if p == nil {
			return &absentError{fmt.Sprintf("'%s' has no profile", name)}
		}
		wants = append(wants, p.Wants...)
	}
	if len(wants) == 0 {
		return nil
	}
	before := st.Counts()
	err := st.FetchAhead(ctx, wants)
	n := st.Counts()
	return errors.Join(err, g.out.println(fmt.Sprintf("%d files are wanted, %s have come", len(wants), size(uint64(n.Bytes-before.Bytes)))))
}

// lazyPaths reads arguments that name objects of a mount.
func lazyPaths(m *lazyMount, st *lazyStore, args []string) ([]storepath.Path, error) {
	paths := make([]storepath.Path, len(args))
	for i, arg := range args {
		abs, err := filepath.Abs(arg)
		if err != nil {
			return nil, err
		}
		var p storepath.Path
		if filepath.Dir(abs) == m.Target {
			p, err = storepath.ParseBase(filepath.Base(abs))
		} else {
			p, err = st.Dir().Parse(arg)
		}
		if err != nil {
			return nil, &usageError{fmt.Errorf("'%s' is not an object of '%s': %w", arg, m.Target, err)}
		}
		paths[i] = p
	}
	return paths, nil
}

type lazyEvictOptions struct {
	cache       string
	all, dryRun bool
	size        string
	unpin       []string
	json        bool
}

func newLazyEvictCommand(g *globals) *cobra.Command {
	var o lazyEvictOptions
	cmd := &cobra.Command{
		Use:   "evict [STORE-PATH...]",
		Short: "Take objects out of what is kept on disk",
		Long: `Take objects out of what is kept on disk: the named ones, all, or those that were
not used for longest until no more than a size is left. What is pinned, or used by a
process, stays. Whatever goes is fetched again when it is read.`,
		Example: `  strata lazy evict --cache-size 20G
  strata lazy evict --all --dry-run`,
		Args: anyArgs,
		RunE: runner(func(ctx context.Context, args []string) error { return runLazyEvict(ctx, g, o, args) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.cache, "cache", "", "the `DIR` of what is kept (default: as for 'lazy mount')")
	f.BoolVar(&o.all, "all", false, "all that may go")
	f.StringVar(&o.size, "cache-size", "", "until at most `SIZE` is left, such as 20G")
	f.BoolVar(&o.dryRun, "dry-run", false, "only tell what would go")
	f.StringArrayVar(&o.unpin, "unpin", nil, "first give up the pin `NAME`; may be repeated")
	f.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// evictedJSON is what 'lazy evict --json' prints.
type evictedJSON struct {
	Paths   []string `json:"paths"`
	Bytes   int64    `json:"bytes"`
	Objects int      `json:"objectsLeft"`
	Left    int64    `json:"bytesLeft"`
	InUse   int      `json:"inUse"`
	Pinned  int      `json:"pinned"`
	DryRun  bool     `json:"dryRun"`
}

func runLazyEvict(ctx context.Context, g *globals, o lazyEvictOptions, args []string) error {
	if n := btoi(o.all) + btoi(o.size != "") + btoi(len(args) > 0); n > 1 || n == 0 && len(o.unpin) == 0 {
		return &usageError{errors.New("say what is to go: store paths, --all, or --cache-size")}
	}
	c, err := g.config()
	if err != nil {
		return err
	}
	co := lazy.CacheOptions{Dir: o.cache, StoreDir: c.dir, Log: c.log}
	if co.Dir == "" {
		co.Dir = c.lazyCacheDir()
	}
	if co.Dir, err = filepath.Abs(co.Dir); err != nil {
		return err
	}
	if _, err := os.Stat(co.Dir); err != nil {
		return err
	}
	if o.size != "" {
		n, err := parseSize(o.size)
		if err != nil {
			return &usageError{fmt.Errorf("--cache-size: %w", err)}
		}
		co.MaxBytes = max(int64(min(n, 1<<62)), 1)
	}
	eo := lazy.EvictOptions{All: o.all, DryRun: o.dryRun}
	for _, arg := range args {
		p, err := c.dir.Parse(arg)
		if err != nil {
			return &usageError{err}
		}
		eo.Paths = append(eo.Paths, p)
	}
	all, err := o.evict(ctx, co, eo)
	if err != nil {
		return err
	}
	if !o.all && o.size == "" && len(args) == 0 {
		return nil
	}
	return o.print(g, c.dir, all)
}

// lazyDomains are the directories in one of what is kept that have something in them, one for
// each domain of trust; or the directory itself, if it is one.
func lazyDomains(dir string) []string {
	if _, err := os.Stat(filepath.Join(dir, "objects")); err == nil {
		return []string{dir}
	}
	found, _ := filepath.Glob(filepath.Join(dir, "*", "objects")) // the pattern is right
	for i, f := range found {
		found[i] = filepath.Dir(f)
	}
	return found
}

// evict does it in the caches of all domains at once: the bounds are for all of them.
func (o *lazyEvictOptions) evict(ctx context.Context, co lazy.CacheOptions, eo lazy.EvictOptions) (_ *lazy.Evicted, err error) {
	base := co.Dir
	var caches []*lazy.Cache
	defer func() {
		for _, c := range caches {
			err = errors.Join(err, c.Close())
		}
	}()
	for _, dir := range lazyDomains(base) {
		if co.Dir = dir; dir != base {
			co.Pool = base
		}
		c, err := lazy.OpenCache(co)
		if err != nil {
			return nil, err
		}
		caches = append(caches, c)
		for _, name := range o.unpin {
			if err := c.Unpin(name); err != nil {
				return nil, err
			}
		}
	}
	if len(caches) == 0 || !eo.All && o.size == "" && len(eo.Paths) == 0 {
		return new(lazy.Evicted), nil
	}
	return caches[0].Evict(ctx, eo)
}

func (o *lazyEvictOptions) print(g *globals, dir storepath.Dir, out *lazy.Evicted) error {
	if o.json {
		return g.out.printJSON(evictedJSON{
			Paths: append([]string{}, dir.PrintAll(out.Paths)...), Bytes: out.Bytes, Objects: out.Objects, Left: out.Left,
			InUse: out.InUse, Pinned: out.Pinned, DryRun: o.dryRun,
		})
	}
	verb := "evicted"
	if o.dryRun {
		verb = "would be evicted"
	}
	for _, p := range out.Paths {
		if err := g.out.println(dir.Print(p)); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("%d objects %s, %s; %d are left, %s", len(out.Paths), verb, size(uint64(out.Bytes)), out.Objects, size(uint64(max(out.Left, 0))))
	if out.InUse+out.Pinned > 0 {
		text += fmt.Sprintf(" (%d in use and %d pinned stay)", out.InUse, out.Pinned)
	}
	return g.out.println(text)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
