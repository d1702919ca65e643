package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
)

// CheckUp is a stack that is open to be checked.
type CheckUp struct {
	target check.Target
	close  func() error
	// lost are lowers that cannot be looked at. The target is the upper alone then.
	lost []*check.Finding
	// caches are those of lazy lowers.
	caches []func(check.Options) check.Source
	// readOnly is why nothing can be repaired, nil if something can.
	readOnly error
}

// checkedAt is where, in the upper's directory, a stack that is down is mounted while it
// is checked.
const checkedAt = "checked"

// OpenToCheck opens a stack that is up beside the process that serves it, whose mounts must
// be visible here. The caller closes it.
func (r *Run) OpenToCheck(ctx context.Context, parts Parts) (*CheckUp, error) {
	var lowers []store.Store
	var c CheckUp
	for _, l := range r.Lowers {
		ref, err := store.ParseReference(l.URI)
		if err == nil {
			var st store.Store
			if st, err = parts.Open(ctx, ref); err == nil {
				lowers = append(lowers, st)
				continue
			}
		}
		if ctx.Err() == nil {
			err = &LowerError{Lower: l.Name, Given: l.Given, Why: "it cannot be opened", Err: err}
		}
		if !c.lose(err) {
			return nil, errors.Join(err, closeAll(lowers))
		}
	}
	o := parts.Upper
	o.Root, o.Real, o.State, o.Log = "", r.Mount, r.State, filepath.Join(r.Dir, "log")
	if len(c.lost) > 0 {
		names := make([]string, len(r.Lowers))
		for i, l := range r.Lowers {
			names[i] = l.Name
		}
		return &c, errors.Join(closeAll(lowers), c.takeUpper(ctx, o, r.Layer, names))
	}
	o.URI = store.Reference{Scheme: "local-overlay", Params: map[string][]string{
		"real": {r.Mount}, "state": {r.State}, "upper-layer": {r.Layer},
	}}.String()
	st, err := overlay.Open(ctx, overlay.Options{Upper: o, UpperLayer: r.Layer, Tolerant: true, Lean: r.lean}, lowers)
	if err != nil {
		return nil, err
	}
	c.take(st, r.Dir, r.Lowers, lowers)
	c.close = st.Close
	return &c, nil
}

// OpenToCheck assembles a stack that is down, at a place of its own: nobody else sees it,
// and nothing of the upper is brought in line with its lowers. It must be resolved
// already. The caller closes it, which takes it down again.
//
// A lower that is not there is a finding. An upper on a read-only file system is looked at as it
// lies, see openReadOnly.
func (c Config) OpenToCheck(ctx context.Context, parts Parts) (*CheckUp, error) {
	if c.Upper.Tmpfs != 0 {
		return nil, fmt.Errorf("stack '%s' has an upper in memory, of which nothing is there while it is down", c.Name)
	}
	if parts.Log == nil {
		parts.Log = slog.New(slog.DiscardHandler)
	}
	c.Mount, c.ShowState = filepath.Join(c.Upper.Dir, checkedAt), No
	s := &Stack{Config: c, parts: parts}
	up := &CheckUp{}
	upper := func() (*CheckUp, error) {
		o := parts.Upper
		o.Dir, o.State, o.Log = c.StoreDir, c.Upper.State, c.Upper.Log
		names := make([]string, len(c.Lowers))
		for i, l := range c.Lowers {
			names[i] = l.Name
		}
		return up, up.takeUpper(ctx, o, c.Upper.Layer, names)
	}
	lowers, err := c.findAll(ctx)
	if up.lose(err) {
		return upper()
	}
	if err != nil {
		return nil, err
	}
	err = s.lockUpper()
	if errors.Is(err, unix.EROFS) {
		if err := up.openReadOnly(ctx, c, parts); err != nil {
			if up.lose(err) {
				return upper()
			}
			return nil, err
		}
		return up, nil
	}
	if err != nil {
		return nil, err
	}
	if err := s.begin(); err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	down := func() error {
		err := s.TakeDown(context.WithoutCancel(ctx), TakeDownOptions{Lazy: c.Lazy})
		_ = os.Remove(c.Mount) // is not empty if it is still mounted
		return err
	}
	if err := s.assembleToCheck(ctx, lowers); err != nil {
		if err = errors.Join(err, down()); up.lose(err) {
			return upper()
		}
		return nil, err
	}
	up.close = down
	up.take(s.Store, c.Upper.Dir, s.run.Lowers, s.lowers)
	return up, nil
}

// lose notes a lower that is not there, or cannot be opened, and tells whether the error is about one.
// Without it layers cannot be compared: what of the upper leans on it, nobody knows.
func (c *CheckUp) lose(err error) bool {
	var lost *LowerError
	if !errors.As(err, &lost) {
		return false
	}
	c.lost = append(c.lost, &check.Finding{
		Code: check.LowerGone, Layer: lost.Lower, Path: lost.Given, Detail: err.Error() + "; without it only that is looked at for which the upper is enough",
	})
	return true
}

// takeUpper makes a target of the upper alone, at which nothing is changed. That there is nothing of it yet is no error.
func (c *CheckUp) takeUpper(ctx context.Context, o local.Options, layer string, lowers []string) error {
	c.close = func() error { return nil }
	if _, err := os.Stat(filepath.Join(o.State, "db/db.sqlite")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	o.Root, o.Real, o.ReadOnly = "", layer, true
	st, err := local.Open(ctx, o)
	if err != nil {
		return err
	}
	c.close = st.Close
	c.target = st.CheckTarget(st)
	c.target.Layers[0].Name = "upper"
	for _, name := range lowers {
		c.target.Layers = append(c.target.Layers, check.Layer{Name: name, Gone: true})
	}
	return nil
}

func closeAll(stores []store.Store) (err error) {
	for _, st := range stores {
		err = errors.Join(err, st.Close())
	}
	return err
}

// assembleToCheck mounts and opens everything as it is.
func (s *Stack) assembleToCheck(ctx context.Context, lowers []*found) error {
	if err := s.makePlaces(); err != nil {
		return err
	}
	steps, kept := s.lowerSteps(lowers)
	s.kept, s.found = kept, lowers
	if err := s.mountAll(ctx, steps); err != nil {
		return err
	}
	if err := s.openLowers(ctx, lowers); err != nil {
		return err
	}
	if err := s.mountStore(ctx); err != nil {
		return err
	}
	if err := s.dropOld(ctx); err != nil {
		return err
	}
	s.aloof = s.newHolds(s.found, s.lowers)
	return s.openStore(ctx)
}

// take makes a target of an open store, whose layers are called as in the configuration.
func (c *CheckUp) take(st *overlay.Store, upperDir string, lowers []RunLower, open []store.Store) {
	c.target = st.CheckTarget()
	present := make([]PresentLower, len(lowers))
	for i, l := range lowers {
		c.target.Layers[i+1].Name = l.Name
		present[i] = PresentLower{RunLower: l, Store: open[i]}
		c.takeCache(l.Name, i+1, open[i])
	}
	c.target.More = append(c.target.More, func(ctx context.Context, found func(*check.Finding)) error {
		return compareLowers(ctx, upperDir, present, found)
	})
}

// takeCache has the cache of a lazy lower checked.
func (c *CheckUp) takeCache(name string, number int, open store.Store) {
	kept, ok := store.As[interface{ Cache() *lazy.Cache }](open)
	if !ok {
		return
	}
	c.caches = append(c.caches, func(o check.Options) check.Source {
		if o.Layers != nil && !slices.Contains(o.Layers, name) && !slices.Contains(o.Layers, strconv.Itoa(number)) {
			return nil
		}
		return CacheSource(name, kept.Cache(), o.Contents)
	})
}

// CacheSource looks for what is wrong with a cache of lazy objects, in the name of a layer.
func CacheSource(layer string, c *lazy.Cache, contents bool) check.Source {
	return func(ctx context.Context, found func(*check.Finding)) error {
		return c.Check(ctx, contents, func(f *lazy.Flaw) {
			found(&check.Finding{Code: check.Code(f.Kind), Layer: layer, Path: f.Path, Detail: f.Detail, Mend: f.Mend})
		})
	}
}

// compareLowers looks whether the lowers are those that the upper was made for.
func compareLowers(ctx context.Context, upperDir string, present []PresentLower, found func(*check.Finding)) error {
	made, err := ReadMade(upperDir)
	if errors.Is(err, ErrNotMade) {
		return nil
	}
	if err != nil {
		return err
	}
	changes, err := made.Compare(ctx, present)
	if err != nil {
		return err
	}
	var errs []error
	for _, ch := range changes {
		f := &check.Finding{Layer: ch.Name, Path: ch.Name, Detail: ch.Why}
		if ch.Now >= 0 {
			f.Path = present[ch.Now].Given
		} else {
			f.Path = made.Lowers[ch.Was].Given
		}
		switch ch.Kind {
		case LowerSame, LowerGrew, LowerAdded:
			continue
		case LowerUnknown:
			errs = append(errs, errors.New(ch.String()))
			continue
		case LowerReplaced:
			f.Code = check.LowerReplaced
		case LowerGone:
			f.Code = check.LowerGone
			f.Detail = "the upper was made for it, and it is not configured any more"
		}
		found(f)
	}
	return errors.Join(errs...)
}

// Check checks it, see [check.Run].
func (c *CheckUp) Check(ctx context.Context, o check.Options) (*check.Report, error) {
	if c.readOnly != nil && (o.Repair || o.Forget) {
		return nil, c.readOnly
	}
	t := c.target
	t.More = slices.Clone(t.More)
	if len(c.lost) > 0 {
		if t.Layers == nil {
			return check.ReportOf(c.lost...), nil
		}
		o.Repair, o.Forget = false, false
		t.More = append(t.More, func(_ context.Context, found func(*check.Finding)) error {
			for _, f := range c.lost {
				again := *f
				found(&again)
			}
			return nil
		})
	}
	for _, source := range c.caches {
		if look := source(o); look != nil {
			t.More = append(t.More, look)
		}
	}
	return check.Run(ctx, t, o)
}

// Close lets go of the stack, and takes it down if it was down.
func (c *CheckUp) Close() error { return c.close() }
