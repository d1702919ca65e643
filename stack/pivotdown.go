package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/strata-nix/strata/pivot"
)

// MoveUpper moves the upper of a stack that is not up to other lowers: those of the options, or
// else those of the configuration, which must be resolved already. [ErrInUse] says that the stack is up, see
// [Run.Pivot], and [ErrNoUpper] that there is nothing to be moved.
func MoveUpper(ctx context.Context, cfg Config, parts Parts, o PivotOptions) (res *PivotResult, err error) {
	if _, err := os.Stat(filepath.Join(cfg.Upper.State, "db/db.sqlite")); errors.Is(err, fs.ErrNotExist) && cfg.Upper.Tmpfs == 0 {
		return nil, fmt.Errorf("%w in '%s'", ErrNoUpper, cfg.Upper.Dir)
	}
	if len(o.Lowers) > 0 {
		r := resolver{dir: "/"}
		cfg.Lowers = r.lowers(slices.Clone(o.Lowers), cfg.Upper.Dir)
		if len(r.errs) > 0 {
			return nil, errors.Join(r.errs...)
		}
	}
	res, err = moveDown(ctx, cfg, parts, o)
	var missing *pivot.MissingError
	if !o.Rebuild || o.DryRun || !errors.As(err, &missing) {
		return res, err
	}
	some, why := cfg.rebuildDown(ctx, parts, missing)
	if !some {
		return nil, errors.Join(err, why)
	}
	return moveDown(ctx, cfg, parts, o)
}

// moveDown is MoveUpper to the lowers of a configuration.
func moveDown(ctx context.Context, cfg Config, parts Parts, o PivotOptions) (res *PivotResult, err error) {
	lowers, err := cfg.findAll(ctx)
	if err != nil {
		return nil, err
	}
	err = whileDown(ctx, cfg, parts, func(s *Stack) error {
		steps, kept := s.lowerSteps(lowers)
		s.kept, s.found = kept, lowers
		if err := s.mountAll(ctx, steps); err != nil {
			return err
		}
		if err := s.openLowers(ctx, lowers); err != nil {
			return err
		}
		db, err := s.openUpperDB(ctx)
		if err != nil {
			return err
		}
		if !o.DryRun {
			err = s.resumePivot(ctx, db, o)
		}
		if err == nil {
			res, err = s.pivotOffline(ctx, db, o, false)
		}
		return errors.Join(err, db.Close())
	})
	return res, err
}

// ContinuePivot goes on with a pivot that was interrupted, of a stack that is not up.
// [pivot.ErrNoJob] says that there is none.
func ContinuePivot(ctx context.Context, cfg Config, parts Parts, o PivotOptions) (*PivotResult, error) {
	h, err := pivot.Peek(cfg.journalPath())
	if err != nil {
		return nil, err
	}
	t, err := readTarget(h)
	if err != nil {
		return nil, err
	}
	if h.Phase == pivot.Planned || h.Phase == pivot.Staged {
		cfg.Lowers = nil
		for i := range t.Lowers {
			l, err := t.Lowers[i].lowerOf(cfg.Upper.Dir)
			if err != nil {
				return nil, err
			}
			cfg.Lowers = append(cfg.Lowers, l)
		}
		o.Lowers = nil
		return MoveUpper(ctx, cfg, parts, o)
	}
	err = whileDown(ctx, cfg, parts, func(s *Stack) error {
		db, err := s.openUpperDB(ctx)
		if err != nil {
			return err
		}
		return errors.Join(s.resumePivot(ctx, db, o), db.Close())
	})
	return &PivotResult{Stack: cfg.Name, Done: err == nil, Changes: Changes{}}, err
}

// RollBackPivot undoes a pivot that was interrupted before it was committed, of a stack that is
// not up. [pivot.ErrCommitted] says that it is too late.
func RollBackPivot(ctx context.Context, cfg Config, parts Parts) error {
	return whileDown(ctx, cfg, parts, func(s *Stack) error {
		p, err := s.pivotParts(nil, PivotOptions{})
		if err != nil {
			return err
		}
		job, err := pivot.Open(p)
		if err != nil {
			return err
		}
		return job.Rollback(ctx)
	})
}

// whileDown does something with a stack that is not up, and keeps others from bringing it up
// meanwhile.
func whileDown(ctx context.Context, cfg Config, parts Parts, do func(*Stack) error) error {
	if cfg.Upper.Tmpfs > 0 {
		return fmt.Errorf("stack '%s': an upper in memory is gone when the stack is not up", cfg.Name)
	}
	if parts.Log == nil {
		parts.Log = slog.New(slog.DiscardHandler)
	}
	s := &Stack{Config: cfg, parts: parts}
	if err := s.lockUpper(); err != nil {
		return err
	}
	if err := s.begin(); err != nil {
		return errors.Join(err, s.lock.Close())
	}
	if len(s.old) > 0 {
		s.old = nil
		return errors.Join(fmt.Errorf("a killed 'strata up' has left mounts of stack '%s'; bring it up or take it down first", cfg.Name), s.lock.Close())
	}
	err := s.makePlaces()
	if err == nil {
		err = do(s)
	}
	return errors.Join(err, s.TakeDown(context.WithoutCancel(ctx), TakeDownOptions{Lazy: true}))
}

// Pivot has the process that serves the stack move its upper. What it tells meanwhile goes to
// the sink of ctx.
func (r *Run) Pivot(ctx context.Context, o PivotOptions) (*PivotResult, error) {
	var res PivotResult
	if err := r.ask(ctx, askPivot, o, &res); err != nil {
		return nil, err
	}
	return &res, nil
}

// readTarget reads which lowers a pivot leads to.
func readTarget(h *pivot.Header) (*target, error) {
	var t target
	err := json.Unmarshal(h.Target, &t)
	for i := range t.Lowers {
		if err == nil {
			err = t.Lowers[i].check()
		}
	}
	if err == nil && len(t.Lowers) == 0 {
		err = errors.New("it names no lowers")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: target: %w", pivot.ErrJournal, err)
	}
	return &t, nil
}
