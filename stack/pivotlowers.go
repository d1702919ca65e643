package stack

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// otherLowers are lowers beside those of the stack, for the time of a pivot. What is mounted
// on behalf of them stands at the end of the record.
type otherLowers struct {
	found  []*found
	stores []store.Store
	kept   []string
	mounts []Mounted // those that were made for them
}

// openOthers finds, mounts and opens lowers beside those that are in use.
func (s *Stack) openOthers(ctx context.Context, lowers []Lower) (o *otherLowers, err error) {
	o = &otherLowers{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeOthers(context.WithoutCancel(ctx), o))
		}
	}()
	taken := map[string]bool{}
	for _, l := range lowers {
		l.place = s.freePlace(l.place, taken)
		f, err := l.find()
		if err != nil {
			return o, err
		}
		switch {
		case f.kind == KindImage:
			err = s.reuseImage(f, l.Mount != "")
		case f.kind == KindDirectory && (s.Config.covers(f.real) || s.Config.covers(f.state)):
			err = s.reuseHidden(f, o)
		}
		if err != nil {
			return o, err
		}
		o.found = append(o.found, f)
	}
	steps, kept := s.lowerSteps(o.found)
	o.kept = append(o.kept, kept...)
	for _, st := range steps {
		if s.mountedAlready(st) {
			continue
		}
		if err := s.mount(ctx, st); err != nil {
			return o, err
		}
		o.mounts = append(o.mounts, s.run.Mounts[len(s.run.Mounts)-1])
	}
	for _, f := range o.found {
		l, err := s.openLower(ctx, f)
		if err != nil {
			return o, err
		}
		o.stores = append(o.stores, l)
	}
	return o, nil
}

// closeOthers closes what was opened, and takes the mounts down.
func (s *Stack) closeOthers(ctx context.Context, o *otherLowers) (err error) {
	for _, l := range o.stores {
		err = errors.Join(err, l.Close())
	}
	o.stores = nil
	return errors.Join(err, s.releaseSome(ctx, o.mounts))
}

// releaseSome takes some of the stack's mounts down, and keeps those in the record that stay. The
// overlay has the layers in its own way, and is not disturbed.
func (s *Stack) releaseSome(ctx context.Context, mounts []Mounted) (err error) {
	for i := len(mounts) - 1; i >= 0; i-- {
		m := mounts[i]
		if _, relErr := release(ctx, m, true); relErr != nil {
			err = errors.Join(err, &LeftoverError{Role: m.Role, Target: m.Given, Err: relErr})
			continue
		}
		s.run.Mounts = without(s.run.Mounts, m)
	}
	return errors.Join(err, s.save())
}

// without gives a list without one mount.
func without(all []Mounted, m Mounted) []Mounted {
	return slices.DeleteFunc(slices.Clone(all), func(o Mounted) bool {
		return o.Given == m.Given && o.Record.MountID == m.Record.MountID && o.Record.UniqueID == m.Record.UniqueID
	})
}

// freePlace gives a place at which nothing is mounted, beside the one that a lower would have.
func (s *Stack) freePlace(place string, taken map[string]bool) string {
	for n, p := 1, place; ; n++ {
		if n > 1 {
			p = fmt.Sprintf("%s.%d", place, n)
		}
		if !taken[p] && !s.holds(p) {
			taken[p] = true
			return p
		}
	}
}

// holds tells whether something of the stack, or of an earlier run, is mounted at or in a place.
func (s *Stack) holds(place string) bool {
	for _, m := range append(s.run.mounts(), s.old...) {
		if m.Given == place || strings.HasPrefix(m.Given, place+"/") {
			return true
		}
	}
	return false
}

// reuseImage gives an image the place at which it is mounted already, if it is, and refuses one
// whose place was chosen and is taken.
func (s *Stack) reuseImage(f *found, chosen bool) error {
	at := ""
	if id, err := identify(f.Path); err == nil {
		for _, m := range s.run.Mounts {
			if strings.HasPrefix(m.Role, roleImage) && m.Source == f.Path && m.Identity == id {
				at = m.Given
			}
		}
	}
	switch {
	case chosen && at != f.Mount && (at != "" || s.holds(f.Mount)):
		return f.fail(false, nil, "at '%s', where it is to be mounted, is another image; take the stack down first", f.Mount)
	case !chosen && at != "":
		f.Mount = at
		f.real, f.state = f.inside(at)
	}
	return nil
}

// reuseHidden gives a directory that the stack's mounts hide the places at which it was kept when
// they were made. What is to be seen at its own places by now is the stack.
func (s *Stack) reuseHidden(f *found, o *otherLowers) error {
	for _, g := range s.found {
		if g.hidden && g.String() == f.String() && g.Real == f.Real && g.State == f.State {
			f.hidden, f.place, f.real, f.state, f.roots = true, g.place, g.real, g.state, g.roots
			o.kept = append(o.kept, g.real, g.state)
			return nil
		}
	}
	if s.Store == nil {
		return nil // nothing is mounted yet
	}
	return f.fail(false, nil, "it is hidden by the mounts of the stack; take the stack down first")
}

// mountedAlready tells whether a step is done.
func (s *Stack) mountedAlready(st step) bool {
	for _, m := range s.run.Mounts {
		if m.Given == st.target && m.Source == st.source {
			return true
		}
	}
	return false
}

// present are lowers with what identifies them.
func present(found []*found, stores []store.Store) (out []PresentLower) {
	for i, f := range found {
		out = append(out, PresentLower{RunLower: f.runLower(stores[i]), Store: stores[i]})
	}
	return out
}

// lowerOf is the lower that was recorded, to be opened again.
func (l *MadeLower) lowerOf(upperDir string) (Lower, error) {
	out := Lower{Name: l.Name, place: filepath.Join(upperDir, "lowers", l.Name)}
	if l.Kind == KindStore || l.Kind == KindLazy {
		ref, err := store.ParseReference(l.Given)
		out.Store = ref
		return out, err
	}
	out.Path, out.Real, out.State = l.Given, l.Real, l.State
	return out, nil
}

// AsMade fills in what a configuration does not say by what its upper was made for.
func (c *Config) AsMade(m *Made) (err error) {
	if c.StoreDir == "" {
		c.StoreDir, err = storepath.ParseDir(m.StoreDir)
	}
	if len(c.Lowers) > 0 {
		return err
	}
	for i := range m.Lowers {
		l, lowerErr := m.Lowers[i].lowerOf(c.UpperDir())
		c.Lowers, err = append(c.Lowers, l), errors.Join(err, lowerErr)
	}
	return err
}
