package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/pivot"
)

// align brings the upper in line with the lowers, before it is mounted over them: what an
// interrupted pivot left is completed or undone, and an upper that was made for other lowers is
// moved to these, or the stack refuses to come up.
func (s *Stack) align(ctx context.Context) error {
	if s.Config.Upper.Tmpfs > 0 { // it was made a moment ago
		lowers, err := identities(ctx, present(s.found, s.lowers))
		if err != nil {
			return err
		}
		return s.recordMade(lowers)
	}
	db, err := s.openUpperDB(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // a transaction is over, or was an error
	o := PivotOptions{}
	if err := s.resumePivot(ctx, db, o); err != nil {
		return err
	}
	res, err := s.pivotOffline(ctx, db, o, s.Config.OnLowerChange == RefuseOnChange)
	if err != nil {
		return err
	}
	if p := res.Plan; p != nil {
		s.parts.Log.Info(fmt.Sprintf("the upper was not made for these lowers and was moved to them: %d objects kept, %d copied up (%d bytes), %d duplicates dropped, %d rows dropped",
			p.Kept.Objects, p.Copied.Objects, p.Copied.NarBytes, p.Duplicates.Objects, p.Rows.Dropped))
	}
	return nil
}

// openUpperDB opens the upper's database while there is no store over it.
func (s *Stack) openUpperDB(ctx context.Context) (*nixdb.DB, error) {
	o := s.parts.Upper
	return nixdb.Open(ctx, filepath.Join(s.Config.Upper.State, "db"), nixdb.Options{
		Dir: s.Config.StoreDir, NoWAL: o.NoWAL, NoSync: o.NoSync, Realisations: o.CADerivations,
	})
}

// resumePivot deals with a pivot that was interrupted: one that was committed is completed;
// another is undone, unless it led to the lowers of now. Then its copies are of use.
func (s *Stack) resumePivot(ctx context.Context, db *nixdb.DB, o PivotOptions) error {
	h, err := pivot.Peek(s.Config.journalPath())
	if errors.Is(err, pivot.ErrNoJob) {
		return nil
	}
	if err != nil {
		return err
	}
	t, err := readTarget(h)
	if err != nil {
		return err
	}
	parts, err := s.pivotParts(db, o)
	if err != nil {
		return err
	}
	job, err := pivot.Open(parts)
	if err != nil {
		return err
	}
	if h.Phase == pivot.Planned || h.Phase == pivot.Staged {
		if sameLowers(s.Config.Lowers, t.Lowers) {
			return nil // see pivotOffline
		}
		s.parts.Log.Info("undoing a pivot that was interrupted")
		return job.Rollback(ctx)
	}
	s.parts.Log.Info("completing a pivot that was interrupted")
	return s.complete(ctx, job, t.Lowers)
}

// complete carries out what is committed, with nothing mounted that writes to the upper.
func (s *Stack) complete(ctx context.Context, job *pivot.Job, lowers []MadeLower) error {
	if job.Phase() != pivot.Applied { // or what is mounted may be what is wanted
		if err := s.dropOld(ctx); err != nil {
			return err
		}
	}
	if err := job.Commit(ctx); err != nil {
		return err
	}
	if err := s.recordMade(lowers); err != nil {
		return err
	}
	return job.Finish(ctx)
}

// recordMade writes down for which lowers the upper is made.
func (s *Stack) recordMade(lowers []MadeLower) error {
	made := Made{StoreDir: string(s.Config.StoreDir), Lowers: lowers}
	return made.Write(s.Config.recordDir())
}

// pivotOffline moves an upper that is not mounted to the lowers of the stack, if it was made for
// others. With refuse it does so only if there is nothing to be done.
func (s *Stack) pivotOffline(ctx context.Context, db *nixdb.DB, o PivotOptions, refuse bool) (res *PivotResult, err error) {
	res = &PivotResult{Stack: s.Config.Name, DryRun: o.DryRun}
	now := present(s.found, s.lowers)
	was, err := s.readMade()
	if err != nil {
		return nil, err
	}
	if res.Changes, err = was.Compare(ctx, now); err != nil {
		return nil, err
	}
	if res.Changes.Same() {
		return res, nil
	}
	lowers, err := identities(ctx, now)
	if err != nil {
		return nil, err
	}
	if res.Changes.Harmless() {
		return res, s.recordMade(lowers)
	}
	if len(was.Lowers) == 0 {
		fresh, err := s.upperIsEmpty(ctx, db)
		if err != nil {
			return nil, err
		}
		if fresh { // it was made for none
			res.Done = true
			return res, s.recordMade(lowers)
		}
	}
	parts, err := s.pivotParts(db, o)
	if err != nil {
		return nil, err
	}
	old, gone, err := s.openOld(ctx, was, o.Old)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.closeOthers(context.WithoutCancel(ctx), old)) }()
	parts.New, parts.Old, parts.Gone = pivotLowers(now), pivotLowers(present(old.found, old.stores)), gone
	plan, err := pivot.Make(ctx, parts, o.options())
	if err != nil {
		return s.refused(res, err)
	}
	res.Plan = plan.Report(s.Config.StoreDir)
	switch {
	case o.DryRun:
		return res, nil
	case refuse && (!plan.Empty() || s.jobUnderWay()):
		return nil, &LowersChangedError{Changes: res.Changes}
	}
	holds := s.newHolds(s.found, s.lowers)
	if plan.Empty() && !s.jobUnderWay() {
		if err := holds.tell(ctx, plan.Leans); err != nil {
			return nil, err
		}
		res.Plan, res.Done = nil, true
		return res, s.recordMade(lowers)
	}
	job, err := s.beginJob(ctx, parts, plan, lowers)
	if err != nil {
		return nil, err
	}
	if plan, err = carry(ctx, parts, o.options(), job, plan); err != nil {
		return s.refused(res, errors.Join(err, rollBack(ctx, job, err)))
	}
	if err := holds.tell(ctx, plan.Leans); err != nil {
		return nil, errors.Join(err, rollBack(ctx, job, err))
	}
	crashpoint.Reached("stack: owners of new lowers told")
	if err := s.complete(ctx, job, lowers); err != nil {
		return nil, err
	}
	res.Plan, res.Done = plan.Report(s.Config.StoreDir), true
	return res, nil
}

// upperIsEmpty tells that an upper has neither rows nor anything in its layer.
func (s *Stack) upperIsEmpty(ctx context.Context, db *nixdb.DB) (bool, error) {
	for _, err := range db.AllPaths(ctx) {
		return false, err
	}
	d, err := os.Open(s.Config.Upper.Layer)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer d.Close()
	if _, err := d.Readdirnames(1); !errors.Is(err, io.EOF) {
		return false, err
	}
	return true, nil
}

// refused tells of a plan that cannot be carried out: with DryRun in the result.
func (s *Stack) refused(res *PivotResult, err error) (*PivotResult, error) {
	var missing *pivot.MissingError
	if !errors.As(err, &missing) {
		return nil, err
	}
	if !res.DryRun {
		return nil, &LowersChangedError{Changes: res.Changes, Err: err}
	}
	res.Refused = missing.Error()
	res.Plan = &pivot.Report{Missing: pivot.ReportMissings(s.Config.StoreDir, missing.Missing)}
	return res, nil
}

// rollBack undoes a job, unless what has ended it is the end of the process: then its copies
// may be of use the next time.
func rollBack(ctx context.Context, job *pivot.Job, cause error) error {
	if ctx.Err() != nil && errors.Is(cause, context.Cause(ctx)) {
		return nil
	}
	return job.Rollback(context.WithoutCancel(ctx))
}

// readMade reads for which lowers the upper was made. A record that is not there or damaged is one of
// no lowers: then the upper is compared with those of now path by path.
func (s *Stack) readMade() (*Made, error) {
	m, err := ReadMade(s.Config.recordDir())
	if err == nil && m.StoreDir != string(s.Config.StoreDir) {
		return nil, fmt.Errorf("upper '%s' was made for the store directory '%s'", s.Config.Upper.Dir, m.StoreDir)
	}
	if err != nil {
		if !errors.Is(err, ErrNotMade) {
			s.parts.Log.Warn(err.Error() + "; the upper is compared with its lowers path by path")
		}
		return &Made{StoreDir: string(s.Config.StoreDir)}, nil
	}
	return m, nil
}

func (s *Stack) jobUnderWay() bool {
	_, err := pivot.Peek(s.Config.journalPath())
	return !errors.Is(err, pivot.ErrNoJob)
}

// beginJob begins a pivot, or takes up one that led to the same lowers, with its copies.
func (s *Stack) beginJob(ctx context.Context, parts pivot.Parts, plan *pivot.Plan, lowers []MadeLower) (*pivot.Job, error) {
	job, err := pivot.Open(parts)
	if errors.Is(err, pivot.ErrNoJob) {
		return pivot.Begin(ctx, parts, plan, target{lowers})
	}
	if err == nil {
		err = job.Change(ctx, plan)
	}
	return job, err
}

// openOld opens what is still there of the lowers that an upper was made for, and others that
// have what those had. What is read of them is compared with hashes, so that it does no harm if one
// is another by now. gone are the names of those that cannot be opened, or are read as new ones.
func (s *Stack) openOld(ctx context.Context, was *Made, more []Lower) (_ *otherLowers, gone []string, err error) {
	opened := &otherLowers{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeOthers(context.WithoutCancel(ctx), opened))
		}
	}()
	var candidates []Lower
	for i := range was.Lowers {
		l, err := was.Lowers[i].lowerOf(s.Config.Upper.Dir)
		if err != nil || slices.ContainsFunc(s.found, func(f *found) bool { return f.String() == l.String() && f.Real == l.Real && f.State == l.State }) {
			gone = append(gone, was.Lowers[i].Name)
			continue
		}
		candidates = append(candidates, l)
	}
	names := map[string]bool{}
	for i, l := range append(candidates, more...) {
		l.Name = freeName(l.Name, names)
		names[l.Name] = true
		o, err := s.openOthers(ctx, []Lower{l})
		switch {
		case ctx.Err() != nil:
			return nil, nil, context.Cause(ctx)
		case err != nil && i >= len(candidates):
			return nil, nil, err
		case err != nil:
			s.parts.Log.Info(fmt.Sprintf("an old lower is not there any more: %v", err))
			gone = append(gone, l.Name)
			continue
		}
		opened.found, opened.stores = append(opened.found, o.found...), append(opened.stores, o.stores...)
		opened.mounts = append(opened.mounts, o.mounts...)
	}
	return opened, gone, nil
}
