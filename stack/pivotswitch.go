package stack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/pivot"
)

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
	if err := s.recordMade(m.made); err != nil {
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
			if f.kind == KindImage && m.Given == f.Mount || f.kind == KindLazy && m.Given == f.real || f.hidden && strings.HasPrefix(m.Given, f.place+"/") {
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

// tidy removes what gave way, once nothing of the stack is mounted any more.
func (s *Stack) tidy() error {
	parts, err := s.pivotParts(nil, PivotOptions{})
	if err != nil {
		return nil //nolint:nilerr // an upper in memory is gone
	}
	job, err := pivot.Open(parts)
	if err != nil || job.Phase() != pivot.Applied {
		return nil //nolint:nilerr // the next start says so
	}
	return job.Finish(context.Background())
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
