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
	Target  string      `json:"target"`
	From    []string    `json:"from"`
	PID     int         `json:"pid"`
	Serving *lazyReport `json:"serving,omitempty"` // missing: the process does not answer
	Cache   string      `json:"cache"`
	Objects int         `json:"objects"`
	Bytes   int64       `json:"bytes"`
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
	s := lazyStatus{Target: m.Target, PID: m.PID, Serving: m.ask()}
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
	out, err := st.cache.Evict(ctx, lazy.EvictOptions{DryRun: true})
	if err == nil {
		s.Objects, s.Bytes = out.Objects+len(out.Paths), out.Left+out.Bytes
	}
	return s, errors.Join(err, st.Close())
}

func (s lazyStatus) String() string {
	lines := []string{s.Target + ":"}
	for _, f := range s.From {
		lines = append(lines, "  from    "+f)
	}
	lines = append(lines, fmt.Sprintf("  cache   %s, %d objects, %s", s.Cache, s.Objects, size(uint64(max(s.Bytes, 0)))))
	if s.Serving == nil {
		return strings.Join(append(lines, fmt.Sprintf("  served  by nobody at the moment; kept by process %d", s.PID)), "\n")
	}
	c := s.Serving.Counts
	lines = append(lines,
		fmt.Sprintf("  served  by process %d for %s, kept by %d", s.Serving.PID, roughly(time.Since(s.Serving.Since).Seconds()), s.PID),
		fmt.Sprintf("  fetched %d objects, %s", c.Fetched, size(uint64(max(c.Bytes, 0)))))
	if c.Failed+c.Unanswered+c.Lied > 0 {
		lines = append(lines, fmt.Sprintf("  ! %d reads failed, %d questions went unanswered, %d listings were wrong", c.Failed, c.Unanswered, c.Lied))
	}
	return strings.Join(lines, "\n")
}
