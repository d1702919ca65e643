package stack

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/image"
	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/overlayfs"
)

// Roles of mounts. Those of lowers are followed by the lower's name.
const (
	roleImage    = "image "
	roleLazy     = "lazy lower "
	roleObjects  = "objects of lower "
	roleDatabase = "database of lower "
	roleRoots    = "roots in lower "
	roleStore    = "store"
	roleState    = "state"
	roleProfiles = "profiles"
	roleGCRoots  = "gcroots"
	roleLog      = "logs"
	roleSocket   = "socket"
)

// step is one mount that a stack needs.
type step struct {
	role, target string
	// covers tells that it does not matter what is in the target.
	covers bool
	// lower is on whose behalf it is, nil if it is for all.
	lower *found
	// source is what shows there, in words.
	source string
	// overlay is how the merged directory is mounted; of other steps it is empty.
	overlay overlayfs.Options
	// identify tells whether an earlier mount shows the same. adopted is whether
	// one is there.
	identify func(adopted bool) (string, error)
	// adopted, if not nil, is called when an earlier mount was taken over.
	adopted func(ctx context.Context) error
	// attach makes the mount; before gets its record when it exists and is not seen
	// yet.
	attach func(ctx context.Context, before func(overlayfs.Record) error) error
}

// showStep shows an image or, read-only, a directory.
func showStep(role, source, target string) step {
	return step{
		role: role, target: target, source: source,
		identify: func(bool) (string, error) { return identify(source) },
		attach: func(ctx context.Context, before func(overlayfs.Record) error) error {
			_, err := image.Mount(ctx, image.Options{Source: source, Target: target, BeforeAttach: before})
			return err
		},
	}
}

// keepStep shows a directory at another place, before its own is covered. After
// a crash it is only at that other place that it can be looked at.
func keepStep(role, source, target string) step {
	s := showStep(role, source, target)
	s.identify = func(adopted bool) (string, error) {
		if adopted {
			return identify(target)
		}
		return identify(source)
	}
	return s
}

// writableStep shows a directory, to be written to.
func writableStep(role, source, target string) step {
	s := showStep(role, source, target)
	s.covers = true
	s.attach = func(_ context.Context, before func(overlayfs.Record) error) error {
		if err := bindWritable(source, target, before); err != nil {
			return fmt.Errorf("bind '%s' to '%s': %w", source, target, err)
		}
		return nil
	}
	return s
}

func bindWritable(source, target string, before func(overlayfs.Record) error) error {
	on, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(on)
	lies, err := mount.Identify(source)
	if err != nil {
		return err
	}
	entries, err := mount.ReadTable(func(e mount.Entry) bool { return e.ID == lies.Mount })
	if err != nil {
		return err
	}
	fstype := ""
	if len(entries) > 0 {
		fstype = entries[0].FSType
	}
	d, err := mount.Clone(source)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.SetAttr(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV); err != nil {
		return err
	}
	id, err := d.ID()
	if err != nil {
		return err
	}
	at, err := mount.Resolve(target)
	if err != nil {
		return err
	}
	rec, err := mount.NewRecord(at, fstype, id)
	if err != nil {
		return err
	}
	rec.Source = source
	if err := before(rec); err != nil {
		return err
	}
	return d.Attach(on)
}

// storeStep is the merged directory.
func storeStep(o overlayfs.Options) step {
	layers := append([]string{o.Upper, o.Work}, o.Lowers...)
	return step{
		role: roleStore, target: o.Target, source: strings.Join(layers, ", "), overlay: o,
		identify: func(adopted bool) (string, error) {
			if adopted {
				if err := overlayfs.Verify(o.Target, overlayfs.Expected{Lowers: o.Lowers, Upper: o.Upper}); err != nil {
					return "", err
				}
			}
			return identifyAll(layers)
		},
		attach: func(ctx context.Context, before func(overlayfs.Record) error) error {
			o.BeforeAttach = before
			m, err := overlayfs.Mount(ctx, o)
			if err != nil {
				return err
			}
			for _, w := range m.Warnings {
				activity.Warnf(ctx, "overlay at '%s': %s", o.Target, w)
			}
			return nil
		},
	}
}

// lowerSteps are the mounts on behalf of the lowers. They change where the
// lowers are found. kept are the places of those that would else be hidden.
func (s *Stack) lowerSteps(lowers []*found) (steps []step, kept []string) {
	c := &s.Config
	for _, f := range lowers {
		switch {
		case f.kind == KindLazy:
			steps = append(steps, s.lazyStep(f))
		case f.kind == KindImage:
			s := showStep(roleImage+f.Name, f.Path, f.Mount)
			s.lower = f
			steps = append(steps, s)
		case f.kind == KindDirectory && (c.covers(f.real) || c.covers(f.state)):
			f.hidden = true
			real, state := filepath.Join(f.place, "store"), filepath.Join(f.place, "state")
			steps = append(steps, keepStep(roleObjects+f.Name, f.real, real), keepStep(roleDatabase+f.Name, f.state, state))
			steps = append(steps, f.keepRoots()...)
			f.real, f.state = real, state
			kept = append(kept, real, state)
		}
	}
	return steps, kept
}

// stateSteps show the state where clients look for it.
func (c *Config) stateSteps() []step {
	if c.ShowState != Yes {
		return nil
	}
	at, state := filepath.Join(c.Root, clientState), c.Upper.State
	shown := showStep(roleState, state, at)
	shown.covers = true // of a store that was not there, or that shows in ours
	steps := []step{shown}
	for _, name := range []string{roleProfiles, roleGCRoots} {
		steps = append(steps, writableStep(name, filepath.Join(state, name), filepath.Join(at, name)))
	}
	if c.Upper.Tmpfs > 0 && c.Socket == c.defaultSocket() {
		socket := showStep(roleSocket, filepath.Dir(c.Socket), filepath.Dir(c.ClientSocket()))
		socket.covers = true
		steps = append(steps, socket)
	}
	logs := showStep(roleLog, c.Upper.Log, filepath.Join(c.Root, clientLog))
	logs.covers = true
	return append(steps, logs)
}

// Places are the directories that clients know on which the stack mounts. What is in
// them is hidden.
func (c *Config) Places() []string {
	dirs := []string{c.Mount}
	if c.ShowState == Yes {
		dirs = append(dirs, filepath.Join(c.Root, clientState), filepath.Join(c.Root, clientLog))
	}
	return dirs
}

// covers tells whether a path is hidden by the stack's mounts.
func (c *Config) covers(path string) bool {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		real = path
	}
	for _, dir := range c.Places() {
		if real == dir || strings.HasPrefix(real, dir+"/") || path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// notThere tells that there is nothing to take down.
func notThere(s overlayfs.State) bool { return s == overlayfs.Gone || s == overlayfs.Foreign }

// release takes one mount of an earlier moment down, if it is still there, and
// tells whether it is only detached.
func release(ctx context.Context, m Mounted, lazy bool) (detached bool, err error) {
	state, err := m.Record.Recognise()
	if err != nil {
		return false, err
	}
	switch {
	case notThere(state):
		return false, nil
	case state == overlayfs.Elsewhere:
		by := inMountNamespace(m.Record)
		if len(by) == 0 || lazy {
			return len(by) > 0, nil
		}
		return false, fmt.Errorf("it is in a mount namespace of %s", strings.Join(by, ", "))
	}
	err = overlayfs.Unmount(ctx, m.Record, overlayfs.UnmountOptions{})
	var busy *overlayfs.BusyError
	if lazy && errors.As(err, &busy) {
		return true, overlayfs.Unmount(ctx, m.Record, overlayfs.UnmountOptions{Lazy: true})
	}
	return false, err
}
