package main

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/stack"
	"github.com/strata-nix/strata/store/lazy"
)

type lazyCheckOptions struct {
	cache                  string
	contents, repair, json bool
}

func newLazyCheckCommand(g *globals) *cobra.Command {
	var o lazyCheckOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look for damage in what is kept on disk, and mend it",
		Long: `Look for damage in what is kept on disk of binary caches: objects that nobody knows
or that were changed, notes that cannot be understood, what killed processes left,
wrong modes. 'strata check' of a stack with lazy lowers does so too.

Nothing is written without --repair, which drops what is wrong: it is fetched again when
it is read. Mounts may be in use meanwhile.

The exit status is 0 when nothing is damaged, or not any more, 4 when damage is
left, and 1 when something could not be looked at.`,
		Example: `  strata lazy check
  strata lazy check --cache /srv/lazy --contents --repair`,
		Args: noArgs,
		RunE: runner(func(ctx context.Context, _ []string) error { return runLazyCheck(ctx, g, o) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.cache, "cache", "", "the `DIR` of what is kept (default: as for 'lazy mount')")
	f.BoolVar(&o.contents, "contents", false, "read all objects and compare them with their hashes")
	f.BoolVar(&o.repair, "repair", false, "mend what is found")
	f.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func runLazyCheck(ctx context.Context, g *globals, o lazyCheckOptions) error {
	c, err := g.config()
	if err != nil {
		return err
	}
	co := lazy.CacheOptions{Dir: o.cache, StoreDir: c.dir, Untouched: true, Log: c.log}
	if co.Dir == "" {
		co.Dir = c.lazyCacheDir()
	}
	base, err := filepath.Abs(co.Dir)
	if err != nil {
		return err
	}
	began := time.Now()
	var found []*check.Finding
	var errs []error
	for _, dir := range lazyDomains(base) {
		if co.Dir = dir; dir != base {
			co.Pool = base
		}
		more, err := checkCache(ctx, co, o)
		found, errs = append(found, more...), append(errs, err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r := check.ReportOf(found...)
	r.Started, r.Since, r.Took, r.Contents = began, began, time.Since(began), o.contents
	for _, err := range errs {
		if err != nil {
			r.Errors = append(r.Errors, err)
		}
	}
	if o.repair {
		countMended(r)
	}
	all := checkOptions{Options: check.Options{Repair: o.repair}, json: o.json}
	return all.print(g, base, r, nil)
}

// checkCache looks at the cache of one domain.
func checkCache(ctx context.Context, co lazy.CacheOptions, o lazyCheckOptions) (found []*check.Finding, err error) {
	cache, err := lazy.OpenCache(co)
	if err != nil {
		return nil, err
	}
	look := stack.CacheSource("", cache, o.contents)
	err = look(ctx, func(f *check.Finding) {
		if o.repair { // while the cache is open
			f.Err = f.Mend(ctx)
		}
		found = append(found, f)
	})
	return found, errors.Join(err, cache.Close())
}

// countMended tells which findings are gone, in a report that has just been made.
func countMended(r *check.Report) {
	for _, f := range r.Findings {
		if f.Err != nil {
			f.Outcome = check.Failed
			continue
		}
		f.Outcome = check.Repaired
		for i := range r.Counts {
			if r.Counts[i].Class.Code == f.Code {
				r.Counts[i].Repaired++
			}
		}
	}
}
