package stack

import (
	"context"
	"errors"

	"github.com/strata-nix/strata/overlayfs"
)

// setAside makes the store of an earlier run read-only that programs still use, so that a new
// mount can take its place. It tells whether it could.
func (s *Stack) setAside(m Mounted, busy error) bool {
	var b *overlayfs.BusyError
	c := &s.Config
	if m.Role != roleStore || m.Given != c.Mount || m.Record.Upper != c.Upper.Layer || c.Upper.Tmpfs > 0 || s.aside != nil || !errors.As(busy, &b) {
		return false
	}
	if err := overlayfs.Freeze(m.Record.Target); err != nil {
		s.parts.Log.Warn(err.Error())
		return false
	}
	s.aside = &m
	return true
}

// uncovered puts a store that lies over another before that, for the order in which they have to
// be dealt with: where one was about to take the place of the other, the old one lies on top.
func uncovered(all []Mounted) []Mounted {
	state := func(m Mounted) overlayfs.State {
		if st, err := m.Record.Recognise(); err == nil && m.Role == roleStore {
			return st
		}
		return overlayfs.Unknown
	}
	for i := range all {
		for j := i + 1; j < len(all); j++ {
			if all[i].Given == all[j].Given && state(all[i]) == overlayfs.Mounted && state(all[j]) == overlayfs.Covered {
				all[i], all[j] = all[j], all[i]
			}
		}
	}
	return all
}

// detachAside lets what lies beneath the store show that is aside.
func (s *Stack) detachAside(ctx context.Context) error {
	if err := overlayfs.Unmount(ctx, s.aside.Record, overlayfs.UnmountOptions{Lazy: true}); err != nil {
		return err
	}
	s.run.Frozen = append(s.run.Frozen, s.aside.Record)
	s.aside = nil
	return nil
}

// mountInPlace puts the store in the place of one that is aside.
func (s *Stack) mountInPlace(ctx context.Context, st step) error {
	st.covers = true // what shows there is the old store
	old := *s.aside
	st.attach = func(ctx context.Context, before func(overlayfs.Record) error) error {
		o := st.overlay
		o.BeforeAttach = before
		_, err := overlayfs.Replace(ctx, old.Record, o)
		return err
	}
	if err := s.mount(ctx, st); err != nil {
		return err
	}
	s.aside = nil
	s.run.Frozen = append(s.run.Frozen, old.Record)
	return s.save()
}
