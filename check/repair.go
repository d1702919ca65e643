package check

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/storepath"
)

// repairs mends what a round has found, class by class in the order of the table.
type repairs struct {
	*examination
	mended    bool
	refreshed bool
}

// repair mends what can be mended, and tells whether anything was.
func (x *examination) repair(ctx context.Context) (bool, error) {
	r := &repairs{examination: x}
	byCode := map[Code][]*Finding{}
	for _, f := range x.report.Findings {
		if f.Outcome == Found && x.wanted(f) {
			byCode[f.Code] = append(byCode[f.Code], f)
		}
	}
	for _, c := range x.classes {
		fs := byCode[c.Code]
		if len(fs) == 0 {
			continue
		}
		activity.Logf(ctx, activity.Talkative, "repairing: %s", c.Title)
		r.mend(ctx, c, fs)
		if err := context.Cause(ctx); err != nil {
			return r.mended, err
		}
	}
	return r.mended, nil
}

// wanted tells whether a finding is to be mended.
func (x *examination) wanted(f *Finding) bool {
	if !x.opts.Repair {
		return f.Code == RowWithoutObject && f.layer == 0 // Forget
	}
	return !x.opts.OnlyDamage || x.class(f.Code).Severity == Damage
}

func (r *repairs) mend(ctx context.Context, c *Class, fs []*Finding) {
	if c.mendAll != nil {
		c.mendAll(ctx, r, fs)
		return
	}
	for _, f := range fs {
		if ctx.Err() != nil {
			return
		}
		switch {
		case f.Mend != nil:
			r.settle(ctx, f, f.Mend(ctx))
		case c.mend != nil:
			r.settle(ctx, f, c.mend(ctx, r, f))
		}
	}
}

// settle notes what became of a finding.
func (r *repairs) settle(ctx context.Context, f *Finding, err error) {
	if ctx.Err() != nil {
		return // it was not tried to the end
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil:
		f.Outcome, f.Err = Failed, err
	default:
		if f.Outcome = Repaired; f.dropped {
			f.Outcome = Dropped
		}
		r.mended = true
		if t := r.tally[f.Code]; t != nil {
			t.left--
			t.mended++
		}
	}
	r.tell(ctx, f)
}

// givesUp tells whether a path may be given up, with what refers to it.
func (r *repairs) givesUp(ctx context.Context, f *Finding, referrers []storepath.Path) (bool, error) {
	switch {
	case r.opts.Drop:
		return true, nil
	case r.opts.Ask != nil:
		return r.opts.Ask(ctx, f, referrers)
	}
	return false, nil
}

// errKept says what could still be done.
var errKept = errors.New("it is given up, with all that refers to it, only if that is asked for")

// drop makes a path of the first layer invalid that nobody can get, with all that refers
// to it, if that is wanted; else it is the error why.
func (r *repairs) drop(ctx context.Context, f *Finding, why error) error {
	if f.path.IsZero() {
		return why
	}
	all, err := r.referrers(ctx, f.path)
	if err != nil {
		return errors.Join(why, err)
	}
	give, err := r.givesUp(ctx, f, all[1:])
	if err != nil {
		return errors.Join(why, err)
	}
	if !give {
		return fmt.Errorf("%w; %w", why, errKept)
	}
	return r.locked(ctx, func() error {
		// Rows before files: a crash leaves objects that nobody knows.
		if err := r.Layers[0].DB.Invalidate(ctx, all); err != nil {
			return err
		}
		crashpoint.Reached("check: rows of what is given up deleted")
		for _, p := range all {
			activity.Logf(ctx, activity.Info, "giving up '%s'", r.Dir.Print(p))
		}
		f.dropped = true
		return r.removePaths(ctx, all)
	})
}

// referrers gives a path and all that refers to it in the first layer, directly or not.
func (r *repairs) referrers(ctx context.Context, p storepath.Path) ([]storepath.Path, error) {
	seen := storepath.NewSet(p)
	all := []storepath.Path{p}
	for level := all; len(level) > 0; {
		lists, err := r.Layers[0].DB.Referrers(ctx, level)
		if err != nil {
			return nil, err
		}
		level = nil
		for _, list := range lists {
			for _, q := range list {
				if seen.Add(q) {
					level = append(level, q)
				}
			}
		}
		all = append(all, level...)
	}
	return all, nil
}

// removePaths deletes the objects of paths that are not valid any more, as far as the
// first layer has any.
func (r *repairs) removePaths(ctx context.Context, paths []storepath.Path) error {
	var names []string
	for _, p := range paths {
		if typ, err := typeAt(r.layerFile(0, p)); err != nil {
			return err
		} else if (presence{typ: typ}).object() {
			names = append(names, p.Base())
		}
	}
	if len(names) == 0 {
		return nil
	}
	if r.Tools.Remove == nil {
		return errNothingKnown
	}
	err := r.Tools.Remove(ctx, names)
	crashpoint.Reached("check: objects deleted")
	return err
}
