package stack

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/overlayfs"
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
	if err := s.whileQuiet(ctx, func() error { return m.open(ctx) }); err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, s.whileQuiet(context.WithoutCancel(ctx), func() error { return m.close(context.WithoutCancel(ctx)) }))
	}()
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
	if m.first, err = pivot.Make(ctx, m.parts, m.o.options()); err != nil {
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
	resume, err := s.keepQuiet(ctx, m.o.Wait)
	if err != nil {
		return err
	}
	defer resume()
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
	if err := s.whileQuiet(ctx, func() error { return m.switchOver(ctx) }); err != nil {
		if p := m.job.Phase(); p == pivot.Committed || p == pivot.Applied {
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

// giveUp tells who serves the stack that a pivot is committed and not complete. The next start
// completes it.
func (s *Stack) giveUp(err error) {
	if s.pivots.failed == nil {
		return
	}
	select {
	case s.pivots.failed <- fmt.Errorf("the lowers of stack '%s' are half-way between old and new: %w; 'strata up' completes it", s.Config.Name, err):
	default:
	}
}

// switchOver puts the new mount in the place of the old one, and the new lowers below the
// store. In between the upper is made one for the new lowers; that is the moment of no return.
func (m *move) switchOver(ctx context.Context) error {
	s := m.s
	i := slices.IndexFunc(s.run.Mounts, func(m Mounted) bool { return m.Role == roleStore })
	if i < 0 {
		return errors.New("the store is not mounted")
	}
	old := s.run.Mounts[i]
	if err := overlayfs.Freeze(old.Record.Target); err != nil {
		return errors.Join(err, whoWrites(ctx, old.Record))
	}
	st := s.newStoreStep(m.new)
	id, err := st.identify(false)
	if err == nil {
		o, n := st.overlay, len(s.run.Mounts)
		o.BeforeAttach = func(r overlayfs.Record) error {
			s.run.Mounts = append(s.run.Mounts[:n], Mounted{Role: st.role, Given: st.target, Source: st.source, Identity: id, Record: r})
			if err := s.save(); err != nil {
				return err
			}
			crashpoint.Reached("stack: new store recorded")
			return m.job.Commit(ctx)
		}
		if err = ctx.Err(); err == nil {
			_, err = overlayfs.Replace(context.WithoutCancel(ctx), old.Record, o)
		}
		if p := m.job.Phase(); err != nil && p != pivot.Committed && p != pivot.Applied {
			s.run.Mounts = s.run.Mounts[:n]
			return errors.Join(err, overlayfs.Thaw(old.Record.Target), s.save())
		}
	}
	if err != nil {
		return err
	}
	crashpoint.Reached("stack: new store mounted")
	return m.settle(context.WithoutCancel(ctx), old)
}

// newStoreStep is the merged directory over new lowers.
func (s *Stack) newStoreStep(o *otherLowers) step {
	c := &s.Config
	return storeStep(overlayfs.Options{Lowers: layerDirs(o.stores), Upper: c.Upper.Layer, Work: c.Upper.Work, Target: c.Mount})
}

// settle makes the new lowers those of the stack, once they are mounted.
func (m *move) settle(ctx context.Context, old Mounted) error {
	s := m.s
	before, err := s.Store.SetLowers(m.new.stores)
	if err != nil {
		return err
	}
	made := Made{StoreDir: string(s.Config.StoreDir), Lowers: m.made}
	if err := made.Write(s.Config.Upper.Dir); err != nil {
		return err
	}
	mounted := s.run.Mounts[len(s.run.Mounts)-1]
	was, kept := s.mountsOf(s.found), s.mountsOf(m.new.found)
	s.lowers, s.found, s.kept = m.new.stores, m.new.found, m.new.kept
	s.Config.Lowers = m.lowers
	s.run.Lowers = nil
	for _, l := range present(m.new.found, m.new.stores) {
		s.run.Lowers = append(s.run.Lowers, l.RunLower)
	}
	m.new = nil // they are those of the stack now
	s.run.Frozen = append(s.run.Frozen, old.Record)
	// In the order in which the next start would make them.
	rest := without(without(s.run.Mounts, old), mounted)
	for _, l := range kept {
		rest = without(rest, l)
	}
	at := 0
	for at < len(rest) && (rest[at].Role == roleTmpfs || isOneOf(rest[at], was)) {
		at++
	}
	s.run.Mounts = slices.Insert(rest, at, append(kept, mounted)...)
	for _, l := range before {
		err = errors.Join(err, l.Close())
	}
	if err := errors.Join(err, s.releaseSome(ctx, slices.DeleteFunc(was, func(w Mounted) bool { return isOneOf(w, kept) }))); err != nil {
		s.parts.Log.Warn(fmt.Sprintf("what was mounted for the old lowers: %v", err))
	}
	return s.save()
}

// mountsOf are those that were made on behalf of lowers, in the order of these.
func (s *Stack) mountsOf(lowers []*found) (out []Mounted) {
	for _, f := range lowers {
		for _, m := range s.run.Mounts {
			if f.kind == KindImage && m.Given == f.Mount || f.hidden && strings.HasPrefix(m.Given, f.place+"/") {
				out = append(out, m)
			}
		}
	}
	return out
}

func isOneOf(m Mounted, all []Mounted) bool { return len(without(all, m)) < len(all) }

// whoWrites names some of those who use a mount.
func whoWrites(ctx context.Context, r overlayfs.Record) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	id := mount.ID{Mount: r.MountID, Unique: r.UniqueID}
	var errs []error
	for _, h := range mount.Holders(ctx, id, r.Target) {
		errs = append(errs, errors.New(h.String()))
	}
	return errors.Join(errs...)
}

// finishLater removes what gave way, when nobody uses the old mount any more, or at once. It gives
// some of those who do.
func (s *Stack) finishLater(ctx context.Context, job *pivot.Job) (used []string) {
	old := s.run.Frozen[len(s.run.Frozen)-1]
	if used = usersOf(old); len(used) == 0 {
		if err := job.Finish(context.WithoutCancel(ctx)); err != nil {
			s.parts.Log.Warn(err.Error())
		}
		return nil
	}
	ctx, s.pivots.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.pivots.wg.Go(func() {
		for sleep(ctx, 10*time.Second) {
			if len(usersOf(old)) > 0 {
				continue
			}
			if err := job.Finish(ctx); err != nil {
				s.parts.Log.Warn(err.Error())
			}
			return
		}
	})
	return used
}

// endPivot ends the waiting for the mount before the last one: what gave way then is removed now,
// since there is only one place for it.
func (s *Stack) endPivot(ctx context.Context) error {
	s.pivots.stop()
	parts, err := s.pivotParts(s.Store.DB(), PivotOptions{})
	if err != nil {
		return err
	}
	job, err := pivot.Open(parts)
	switch {
	case errors.Is(err, pivot.ErrNoJob):
		return nil
	case err != nil:
		return err
	case job.Phase() != pivot.Applied:
		return job.Rollback(ctx)
	}
	return job.Finish(ctx)
}
