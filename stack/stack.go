package stack

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/lease"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
)

// Parts are what a stack is assembled with.
type Parts struct {
	// Open opens a lower store.
	Open func(context.Context, store.Reference) (store.Store, error)
	// Leases opens a place for leases, given as a directory or a URI. nil: there are
	// only directories.
	Leases func(ctx context.Context, place string) (*lease.Place, error)
	// Upper has the settings of the upper store; its places are filled in.
	Upper local.Options
	// Lazy has the mount of a lazy lower served, by processes that go on until it is gone, also when
	// this one has ended. nil: there are no lazy lowers.
	Lazy func(context.Context, LazyMount) error
	// LazyKept gives the connection of the mount of a lazy lower at a directory that somebody has kept while nobody served it; nil
	// if there is none. It is the caller's from then on. nil: there are none.
	LazyKept func(target string) *os.File
	// Version of the program, for those who ask what runs.
	Version string
	// Log gets what happens while the stack is up. nil: nothing is logged.
	Log *slog.Logger
}

// Stack is a stack that is up. One goroutine uses it at a time, except for Store
// and Status.
type Stack struct {
	// Store is what is to be served. TakeDown closes it.
	Store *overlay.Store
	// Config is the resolved configuration.
	Config Config

	parts   Parts
	run     *Run
	old     []Mounted // of an earlier run, not taken over (yet)
	lock    *flock.Lock
	lowers  []store.Store
	control *control
	kept    []string // directories of lowers that are about to be covered, where they show then
	found   []*found // the lowers, in order
	aside   *Mounted // the store of an earlier run, in use and read-only, which a new mount takes the place of

	// aloof are the holds of a stack that does not tell what it uses already, since it is
	// about to be taken down; nil: it does.
	aloof *newHolds

	// quiet is held for writing while the lowers change.
	quiet  sync.RWMutex
	pivots pivots

	collecting turn // by the policy
	background background
	refreshes  refreshes
	graduation struct {
		stop func()
		wg   sync.WaitGroup
	}
}

// Assemble brings up everything but the daemon: it checks the lowers, mounts, and
// opens the store. It must be resolved already, see [Config.Resolve]. On error, and
// when ctx ends, nothing is left that was not there before.
//
// A lower that is not there or not right is a [*LowerError]; an upper that
// somebody else has an [*InUseError]; what an earlier run left and cannot be
// removed a [*LeftoverError].
func Assemble(ctx context.Context, cfg Config, parts Parts) (*Stack, error) {
	if parts.Log == nil {
		parts.Log = slog.New(slog.DiscardHandler)
	}
	s := &Stack{Config: cfg, parts: parts}
	if err := s.throwAway(ctx); err != nil {
		return nil, err
	}
	lowers, err := cfg.findAll(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.lockUpper(); err != nil {
		return nil, err
	}
	if err := s.begin(); err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	if err := s.assemble(ctx, lowers); err != nil {
		return nil, errors.Join(err, s.TakeDown(context.WithoutCancel(ctx), TakeDownOptions{Lazy: cfg.Lazy}))
	}
	return s, nil
}

func (s *Stack) assemble(ctx context.Context, lowers []*found) error {
	if err := s.mountTmpfs(ctx); err != nil {
		return err
	}
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
	if err := s.align(ctx); err != nil {
		return err
	}
	if err := s.mountStore(ctx); err != nil {
		return err
	}
	if err := s.dropOld(ctx); err != nil {
		return err
	}
	return s.openStore(ctx)
}

// Run is the record of the stack, for looking at.
func (s *Stack) Run() *Run { return s.run }

// Announce tells others that the stack is ready: where it listens, how it is
// called, and its status on request.
func (s *Stack) Announce(ctx context.Context, sockets []string) error {
	s.run.Sockets, s.run.Client = sockets, s.Config.ClientURI()
	if err := register(s.run); err != nil {
		var pe *fs.PathError
		var le *os.LinkError
		if !errors.As(err, &pe) && !errors.As(err, &le) {
			return err
		}
		activity.Warnf(ctx, "the stack has no name that 'strata status' would find: %v", err)
	}
	if err := s.startBackground(ctx); err != nil {
		return err
	}
	if err := s.startGraduating(ctx); err != nil {
		return err
	}
	c, err := serveControl(s)
	if err != nil {
		return err
	}
	s.control = c
	return s.save()
}

// TakeDownOptions say how hard to try.
type TakeDownOptions struct {
	// Lazy detaches mounts that are busy.
	Lazy bool
	// KeepStore leaves the store open, as operations on it do not end; the process
	// must end.
	KeepStore bool
}

// TakeDown closes the store and takes the mounts down, last first. What is busy
// stays, with its record, and is in the error ([overlayfs.BusyError]); lazily, it
// is detached.
func (s *Stack) TakeDown(ctx context.Context, o TakeDownOptions) error {
	var errs []error
	if s.control != nil {
		s.control.close()
	}
	s.stopBackground()
	s.stopGraduating()
	s.pivots.stop()
	if !o.KeepStore {
		errs = append(errs, s.closeStores())
	}
	// What was not taken over lies over the rest.
	all := append(s.run.mounts(), s.old...)
	if s.aside != nil {
		all, s.aside = append(all, *s.aside), nil
	}
	left, detached, err := releaseAll(ctx, all, o.Lazy)
	s.run.Mounts, s.old = left, nil
	s.run.Detached = append(s.run.Detached, detached...)
	if len(left)+len(detached) == 0 {
		errs = append(errs, s.tidy())
	}
	errs = append(errs, err, s.run.leave(), s.lock.Close())
	return errors.Join(errs...)
}

func (s *Stack) closeStores() (err error) {
	if s.Store != nil {
		return s.Store.Close()
	}
	for _, l := range s.lowers {
		err = errors.Join(err, l.Close())
	}
	return err
}
