package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/overlayfs"
)

// makePlaces makes the directories of the upper, and those to mount on.
func (s *Stack) makePlaces() error {
	u := s.Config.Upper
	dirs := []string{u.Layer, u.Work, u.Log}
	for _, name := range []string{"db", "profiles", "gcroots", "daemon-socket"} {
		dirs = append(dirs, filepath.Join(u.State, name))
	}
	if u.Tmpfs > 0 {
		dirs = append(dirs, filepath.Dir(s.Config.defaultSocket()))
	}
	for _, dir := range dirs {
		if err := makeDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// mountAll makes the mounts, or takes over those of an earlier run.
func (s *Stack) mountAll(ctx context.Context, steps []step) error {
	for _, st := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		adopted, err := s.adopt(st)
		if err != nil {
			return err
		}
		if adopted {
			s.parts.Log.Info(fmt.Sprintf("taking over the mount at '%s' of an earlier run", st.target))
			if st.adopted != nil {
				if err := st.adopted(ctx); err != nil {
					return err
				}
			}
			continue
		}
		// What was mounted later may lie on what comes now.
		if err := s.dropOld(ctx); err != nil {
			return err
		}
		mount := s.mount
		if st.role == roleStore && s.aside != nil {
			mount = s.mountInPlace
		}
		if err := mount(ctx, st); err != nil {
			return err
		}
	}
	return nil
}

// adopt takes over the next mount of an earlier run, if it is what is wanted.
func (s *Stack) adopt(st step) (bool, error) {
	if len(s.old) == 0 {
		return false, nil
	}
	was := s.old[0]
	if was.Role != st.role || was.Given != st.target || was.Source != st.source {
		return false, nil
	}
	state, err := was.Record.Recognise()
	if err != nil || state != overlayfs.Mounted {
		return false, err
	}
	if id, err := st.identify(true); err != nil || id != was.Identity {
		return false, nil //nolint:nilerr // then it is not what is wanted
	}
	if st.role == roleStore {
		// A pivot that was killed may have made it read-only.
		if err := overlayfs.Thaw(was.Record.Target); err != nil {
			return false, err
		}
	}
	s.run.Mounts, s.old = append(s.run.Mounts, was), s.old[1:]
	return true, s.save()
}

// dropOld takes down what is left of an earlier run.
func (s *Stack) dropOld(ctx context.Context) error {
	for len(s.old) > 0 {
		last := s.old[len(s.old)-1]
		detached, err := release(ctx, last, s.Config.Lazy)
		if err != nil && s.setAside(last, err) {
			s.old = s.old[:len(s.old)-1]
			continue
		}
		var state *overlayfs.StateError
		if errors.As(err, &state) && state.State == overlayfs.Covered && s.aside != nil && s.aside.Given == last.Given {
			if err := s.detachAside(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return &LeftoverError{Role: last.Role, Target: last.Given, Earlier: true, Err: err}
		}
		if detached && last.Role == roleStore {
			s.run.Detached = append(s.run.Detached, last.Record)
		}
		s.old = s.old[:len(s.old)-1]
		if err := s.checkDetached(s.run.Detached); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stack) mount(ctx context.Context, st step) error {
	if err := s.makeTarget(st); err != nil {
		return err
	}
	id, err := st.identify(false)
	if err != nil {
		return err
	}
	n := len(s.run.Mounts)
	err = st.attach(ctx, func(r overlayfs.Record) error {
		s.run.Mounts = append(s.run.Mounts[:n], Mounted{Role: st.role, Given: st.target, Source: st.source, Identity: id, Record: r})
		if err := s.save(); err != nil {
			return err
		}
		crashpoint.Reached("stack: mount recorded: " + st.role)
		return nil
	})
	crashpoint.Reached("stack: mounted: " + st.role)
	if err != nil {
		s.run.Mounts = s.run.Mounts[:n]
		if st.lower != nil && ctx.Err() == nil {
			return st.lower.fail(false, err, "it cannot be mounted")
		}
	}
	return err
}

// makeTarget makes the directory to mount on, and sees that nothing is lost from
// sight in it that is not meant to be.
func (s *Stack) makeTarget(st step) error {
	if err := makeDir(st.target); err != nil {
		return fmt.Errorf("the %s needs a directory to mount on: %w; make it, or choose another place with 'root' or 'mount'", st.role, err)
	}
	if s.Config.Cover || st.covers {
		return nil
	}
	dir, err := os.Open(st.target)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(2)
	names = slices.DeleteFunc(names, func(n string) bool { return n == ".links" }) // of a store with nothing in it
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return err
	case len(names) == 0 || s.isKept(st.target):
		return nil
	}
	return &CoverError{Role: st.role, Target: st.target, Holds: names[0]}
}

// isKept tells whether a directory is one of a lower, so that what is in it stays in
// sight.
func (s *Stack) isKept(dir string) bool {
	id, err := identify(dir)
	for _, k := range s.kept {
		if kept, keptErr := identify(k); err == nil && keptErr == nil && kept == id {
			return true
		}
	}
	return false
}

// save writes down what is mounted, with what an earlier run left.
func (s *Stack) save() error {
	all := *s.run
	all.Mounts = append(append([]Mounted{}, s.run.Mounts...), s.old...)
	if s.aside != nil {
		all.Mounts = append(all.Mounts, *s.aside)
	}
	err := all.save()
	if errors.Is(err, unix.ENOSPC) {
		// To look what a pivot would do, or to make room by one, is wanted on a full disk, too.
		nixdb.SpendSome(filepath.Join(s.Config.Upper.State, "db"), 256<<10)
		err = all.save()
	}
	return err
}

// mountStore mounts the merged directory and shows the state.
func (s *Stack) mountStore(ctx context.Context) error {
	c := &s.Config
	steps := append([]step{storeStep(overlayfs.Options{
		Lowers: layerDirs(s.lowers), Upper: c.Upper.Layer, Work: c.Upper.Work, Target: c.Mount,
	})}, c.stateSteps()...)
	return s.mountAll(ctx, steps)
}
