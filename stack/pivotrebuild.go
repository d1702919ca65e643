package stack

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/pivot"
	"github.com/strata-nix/strata/storepath"
)

// rebuildMissing has objects that a plan lacks built anew in the store of a target: they are the
// upper's own then, and the plan is made once more. It tells whether anything was brought back; the
// error is why what is still missing cannot be.
func rebuildMissing(ctx context.Context, t check.Target, missing *pivot.MissingError) (bool, error) {
	paths := make([]storepath.Path, len(missing.Missing))
	for i, m := range missing.Missing {
		paths[i] = m.Path
	}
	ctx, act := activity.Start(ctx, activity.Info, activity.Unknown, fmt.Sprintf("bringing back %d objects that no lower store has", len(paths)))
	defer act.Stop()
	failed, err := check.Restore(ctx, t, paths)
	if err != nil {
		return false, err
	}
	for _, p := range paths {
		if failed[p] != nil {
			err = errors.Join(err, failed[p])
		}
	}
	return len(failed) < len(paths), err
}

// makePlan makes the plan of a stack that is up, once more if something could be rebuilt.
func (m *move) makePlan(ctx context.Context) (*pivot.Plan, error) {
	plan, err := pivot.Make(ctx, m.parts, m.o.options())
	var missing *pivot.MissingError
	if !m.o.Rebuild || m.o.DryRun || !errors.As(err, &missing) {
		return plan, err
	}
	some, why := rebuildMissing(ctx, m.s.Store.CheckTarget(), missing)
	if !some {
		return nil, errors.Join(err, why)
	}
	return pivot.Make(ctx, m.parts, m.o.options())
}

// rebuildDown has what is missing rebuilt in a stack that is down, which is mounted aside for that over
// its new lowers.
func (c Config) rebuildDown(ctx context.Context, parts Parts, missing *pivot.MissingError) (some bool, err error) {
	up, err := c.OpenToCheck(ctx, parts)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, up.Close()) }()
	if len(up.lost) > 0 {
		return false, errors.New(up.lost[0].Detail)
	}
	return rebuildMissing(ctx, up.target, missing)
}
