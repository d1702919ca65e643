package stack

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/pivot"
)

// Pivot moves the upper of the stack, which is up, to other lowers. Copies are made while clients
// go on working. Then they wait for as long as it takes to look at what they did meanwhile, and to
// put a new mount in the place of the old one. Programs that run go on over the old mount, which
// nobody can write to any more, until they end.
//
// An error leaves everything as it was, unless the channel of [Stack.Serving] gets it too.
func (s *Stack) Pivot(ctx context.Context, o PivotOptions) (res *PivotResult, err error) {
	if !s.pivots.mu.TryLock() {
		return nil, fmt.Errorf("stack '%s': %w", s.Config.Name, pivot.ErrUnderWay)
	}
	defer s.pivots.mu.Unlock()
	defer func() {
		if err != nil {
			err = fmt.Errorf("pivot of stack '%s': %w", s.Config.Name, err)
		}
	}()
	if err := s.endPivot(ctx); err != nil {
		return nil, err
	}
	m := &move{s: s, o: o}
	defer func() {
		err = errors.Join(err, s.whileQuiet(context.WithoutCancel(ctx), func() error { return m.close(context.WithoutCancel(ctx)) }))
	}()
	if err := s.whileQuiet(ctx, func() error { return m.open(ctx) }); err != nil {
		return nil, err
	}
	res, err = m.plan(ctx)
	if err != nil || o.DryRun || m.nothingToDo {
		return res, err
	}
	return res, m.execute(ctx, res)
}

// whileQuiet does something that changes what a status shows.
func (s *Stack) whileQuiet(ctx context.Context, do func() error) error {
	for !s.quiet.TryLock() { // a waiting Lock would keep everybody else out meanwhile
		if !sleep(ctx, 10*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
	defer s.quiet.Unlock()
	return do()
}

// mountedStore is what plans call the store over the old lowers.
const mountedStore = "the mounted store"

// move is one pivot of a stack that is up.
type move struct {
	s   *Stack
	o   PivotOptions
	was *Made

	lowers []Lower // new
	new    *otherLowers
	old    *otherLowers // more old ones than those of the stack
	made   []MadeLower  // new
	first  *pivot.Plan
	parts  pivot.Parts
	job    *pivot.Job
	holds  *newHolds
	// nothingToDo tells that the stack is mounted over these lowers already.
	nothingToDo bool
}

// open opens the new lowers, and more old ones.
func (m *move) open(ctx context.Context) (err error) {
	s := m.s
	m.lowers = s.Config.Lowers
	if len(m.o.Lowers) > 0 {
		r := resolver{dir: "/"}
		m.lowers = r.lowers(slices.Clone(m.o.Lowers), s.Config.Upper.Dir)
		if len(r.errs) > 0 {
			return errors.Join(r.errs...)
		}
	}
	if m.was, err = s.readMade(); err != nil {
		return err
	}
	if m.new, err = s.openOthers(ctx, m.lowers); err != nil {
		return err
	}
	m.old = &otherLowers{}
	if len(m.o.Old) == 0 {
		return nil
	}
	names := map[string]bool{}
	for _, f := range s.found {
		names[f.Name] = true
	}
	more := slices.Clone(m.o.Old)
	for i := range more {
		more[i].Name = freeName(more[i].Name, names)
		more[i].place = filepath.Join(s.Config.Upper.Dir, "lowers", more[i].Name)
	}
	m.old, err = s.openOthers(ctx, more)
	return err
}

// close closes what was opened for the move and does not stay.
func (m *move) close(ctx context.Context) (err error) {
	if m.new == nil && m.old == nil {
		return nil
	}
	for _, o := range []*otherLowers{m.new, m.old} {
		if o != nil {
			err = errors.Join(err, m.s.closeOthers(ctx, o))
		}
	}
	return err
}

// plan plans, while clients go on working.
func (m *move) plan(ctx context.Context) (*PivotResult, error) {
	s := m.s
	res := &PivotResult{Stack: s.Config.Name, DryRun: m.o.DryRun}
	next := present(m.new.found, m.new.stores)
	var err error
	if res.Changes, err = m.was.Compare(ctx, next); err != nil {
		return nil, err
	}
	if m.nothingToDo = res.Changes.Harmless() && s.mountedOver(m.new); m.nothingToDo {
		return res, nil
	}
	if m.made, err = identities(ctx, next); err != nil {
		return nil, err
	}
	if m.parts, err = s.pivotParts(s.Store.DB(), m.o); err != nil {
		return nil, err
	}
	m.parts.New = pivotLowers(next)
	m.parts.Old = append(pivotLowers(present(s.found, s.lowers)), pivotLowers(present(m.old.found, m.old.stores))...)
	// The mount shows what an old lower had also when its directory was replaced.
	m.parts.Old = append(m.parts.Old, pivot.Lower{Name: mountedStore, Store: s.Store.DB(), Dir: s.Config.Mount})
	if m.first, err = m.makePlan(ctx); err != nil {
		return s.refused(res, err)
	}
	res.Plan = m.first.Report(s.Config.StoreDir)
	return res, nil
}

// mountedOver tells whether lowers are those that the stack is mounted over.
func (s *Stack) mountedOver(o *otherLowers) bool {
	return slices.EqualFunc(s.found, o.found, func(a, b *found) bool { return a.kind == b.kind && a.real == b.real && a.state == b.state }) &&
		len(o.mounts) == 0
}

// execute carries the plan out.
func (m *move) execute(ctx context.Context, res *PivotResult) (err error) {
	s := m.s
	if m.job, err = pivot.Begin(ctx, m.parts, m.first, target{m.made}); err != nil {
		return err
	}
	defer func() {
		if p := m.job.Phase(); err != nil && (p == pivot.Planned || p == pivot.Staged) {
			err = errors.Join(err, rollBack(ctx, m.job, err))
		}
	}()
	if _, err := carry(ctx, m.parts, m.o.options(), m.job, m.first); err != nil {
		return err
	}
	crashpoint.Reached("stack: copies made, clients at work")
	// While clients still work, as a collection of a lower may have to end first.
	m.holds = s.newHolds(m.new.found, m.new.stores)
	if err := m.holds.tell(ctx, m.first.Leans); err != nil {
		return err
	}
	resume, err := s.keepQuiet(ctx, m.o.Wait)
	if err != nil {
		return err
	}
	halfWay := false
	defer func() {
		if !halfWay { // else nobody may be served any more
			resume()
		}
	}()
	// What clients did meanwhile.
	plan, err := pivot.Make(ctx, m.parts, m.o.options())
	if err != nil {
		return err
	}
	if err := m.job.Change(ctx, plan); err != nil {
		return err
	}
	if plan, err = carry(ctx, m.parts, m.o.options(), m.job, plan); err != nil {
		return err
	}
	if err := m.holds.tell(ctx, plan.Leans); err != nil {
		return err
	}
	crashpoint.Reached("stack: owners of new lowers told")
	if err := s.whileQuiet(ctx, func() error { return m.switchOver(ctx) }); err != nil {
		if p := m.job.Phase(); p == pivot.Committed || p == pivot.Applied {
			halfWay = true
			s.giveUp(err)
		}
		return err
	}
	res.Plan, res.Done = plan.Report(s.Config.StoreDir), true
	res.StillUsed = s.finishLater(ctx, m.job)
	return nil
}

// keepQuiet makes clients wait, keeps others from collecting garbage, and ends what the stack does
// by itself.
func (s *Stack) keepQuiet(ctx context.Context, wait time.Duration) (resume func(), err error) {
	if wait <= 0 {
		wait = DefaultWait
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	open := func() {}
	if s.pivots.pause != nil {
		if open, err = s.pivots.pause(ctx); err != nil {
			return nil, err
		}
	}
	lock, err := flock.Open(filepath.Join(s.Config.Upper.State, "gc.lock"))
	if err != nil {
		open()
		return nil, err
	}
	if err := lock.Lock(ctx, flock.Exclusive, func() {
		activity.Logf(ctx, activity.Info, "waiting for a garbage collection to end...")
	}); err != nil {
		open()
		return nil, errors.Join(err, lock.Close())
	}
	s.stopBackground()
	return func() {
		_ = lock.Close() // nothing was written to it
		open()
		if s.control == nil {
			return
		}
		if err := s.startBackground(context.WithoutCancel(ctx)); err != nil {
			s.parts.Log.Warn(fmt.Sprintf("watching the lowers: %v", err))
		}
	}, nil
}
