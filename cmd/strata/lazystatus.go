package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/lazy"
)

func newLazyStatusCommand(g *globals) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell how lazy mounts are",
		Long: `Tell of each lazy mount where it shows, what it shows, what is kept on disk, and what
its process has fetched, and failed to, since it began.`,
		Example: "  strata lazy status\n  strata lazy status --json",
		Args:    noArgs,
		RunE:    runner(func(ctx context.Context, _ []string) error { return runLazyStatus(ctx, g, asJSON) }),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// lazyStatus is what 'lazy status --json' prints of a mount.
type lazyStatus struct {
	Target  string       `json:"target"`
	From    []string     `json:"from"`
	PID     int          `json:"pid"`
	Serving *lazy.Report `json:"serving,omitempty"` // missing: the process does not answer
	Cache   string       `json:"cache"`
	Objects int64        `json:"objects"`
	Bytes   int64        `json:"bytes"`
	Bound   int64        `json:"bound"`
}

func runLazyStatus(ctx context.Context, g *globals, asJSON bool) error {
	mounts, err := lazyMounts()
	if err != nil {
		return err
	}
	all := []lazyStatus{}
	for _, m := range mounts {
		s, serr := m.status(ctx, g)
		err = errors.Join(err, serr)
		all = append(all, s)
	}
	if asJSON {
		return errors.Join(g.out.printJSON(all), err)
	}
	if len(all) == 0 && err == nil {
		return g.out.println("there are no lazy mounts")
	}
	for _, s := range all {
		err = errors.Join(err, g.out.println(s.String()))
	}
	return err
}

// status looks at a mount without touching it: what is not served would be waited for.
func (m *lazyMount) status(ctx context.Context, g *globals) (lazyStatus, error) {
	s := lazyStatus{Target: m.Target, PID: m.PID, Serving: m.ask(ctx)}
	ref, err := store.ParseReference(m.Store)
	if err != nil {
		return s, err
	}
	s.From = ref.Params["from"]
	st, err := m.open(ctx, g)
	if err != nil {
		return s, err
	}
	s.Cache = st.cache.Dir()
	u, err := st.cache.Usage(ctx)
	s.Objects, s.Bytes, s.Bound = u.Objects, u.Bytes, u.Bound
	return s, errors.Join(err, st.Close())
}

func (s lazyStatus) String() string {
	lines := []string{s.Target + ":"}
	kept := fmt.Sprintf("  cache   %s, %d objects, %s", s.Cache, s.Objects, size(uint64(max(s.Bytes, 0))))
	if s.Bound > 0 {
		kept += " of " + size(uint64(s.Bound))
	}
	if s.Serving == nil {
		for _, f := range s.From {
			lines = append(lines, "  from    "+f)
		}
		return strings.Join(append(lines, kept, fmt.Sprintf("  served  by nobody at the moment; kept by process %d", s.PID)), "\n")
	}
	r := s.Serving
	lines = append(lines, lazyLines(r)...)
	return strings.Join(append(lines, kept,
		fmt.Sprintf("  served  by process %d for %s, kept by %d", r.PID, roughly(time.Since(r.Since).Seconds()), s.PID)), "\n")
}

// lazyLines tell how a mount is, as its process says.
func lazyLines(r *lazy.Report) (lines []string) {
	for _, o := range r.Health.Origins {
		line := fmt.Sprintf("  from    %s", o.URI)
		if o.Failures > 0 {
			line += fmt.Sprintf(", %d failures", o.Failures)
		}
		lines = append(lines, line)
	}
	if r.Health.Offline {
		lines = append(lines, "  offline: nobody is asked")
	}
	c, o := r.Counts, r.Objects
	lines = append(lines,
		fmt.Sprintf("  objects %d known, %d complete, %d in part, %d read past the mount", o.Known, o.Complete, o.Partial, o.Graduated),
		fmt.Sprintf("  fetched %d objects, %s in %d requests, %d ahead of need", c.Fetched, size(uint64(max(c.Bytes, 0))), c.Requests, c.Ahead))
	if u := r.Cache; u.Evicted > 0 {
		lines = append(lines, fmt.Sprintf("  evicted %d objects, %s", u.Evicted, size(uint64(u.EvictedBytes))))
	}
	for _, p := range []struct {
		n    int64
		what string
	}{
		{c.EIO, "reads ended in an error (EIO)"},
		{c.Failed, "objects could not be had"},
		{c.Refused, "contents were not those that were promised, and refused"},
		{c.Damaged, "objects on disk were damaged"},
		{c.Through, "objects or parts of files were served and not kept, for want of room"},
		{c.Unanswered, "questions went unanswered"},
		{c.Lied, "listings were wrong"},
	} {
		if p.n > 0 {
			lines = append(lines, fmt.Sprintf("  ! %d %s", p.n, p.what))
		}
	}
	if f := r.Health.Last; f != nil {
		lines = append(lines, fmt.Sprintf("  ! last, at %s: %s", f.Time.Local().Format(time.DateTime), printable(f.Text)))
	}
	return lines
}
