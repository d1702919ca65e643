package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
)

// Parts are what a stack is assembled with.
type Parts struct {
	// Open opens a lower store.
	Open func(context.Context, store.Reference) (store.Store, error)
	// Upper has the settings of the upper store; its places are filled in.
	Upper local.Options
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

// lockUpper makes sure that nobody else has the upper.
func (s *Stack) lockUpper() error {
	dir := s.Config.Upper.Dir
	if err := makeDir(dir); err != nil {
		return err
	}
	path := filepath.Join(dir, lockFile)
	lock, err := flock.Open(path)
	if err != nil {
		return err
	}
	if ok, err := lock.Try(flock.Exclusive); err != nil || !ok {
		text, readErr := os.ReadFile(path)
		_ = lock.Close()
		if err != nil {
			return err
		}
		e := &InUseError{Upper: dir, Why: "a stack is up with it"}
		if pid := strings.TrimSpace(string(text)); readErr == nil && pid != "" {
			e.By = []string{"process " + pid}
			e.Why = "it is served"
		}
		return e
	}
	f := lock.File()
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // for the message above only
	}
	s.lock = lock
	return nil
}

func (s *Stack) assemble(ctx context.Context, lowers []*found) error {
	if err := s.makePlaces(); err != nil {
		return err
	}
	steps, kept := s.Config.lowerSteps(lowers)
	s.kept = kept
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
	return s.openStore(ctx)
}

// begin reads what an earlier run left, and starts a new record.
func (s *Stack) begin() error {
	c := &s.Config
	me, err := self()
	if err != nil {
		return err
	}
	ns, err := mount.Namespace()
	if err != nil {
		return err
	}
	initial, err := mount.InitialUserNamespace()
	if err != nil {
		return err
	}
	s.run = &Run{
		Version: runVersion, Strata: s.parts.Version, Name: c.Name, Dir: c.Upper.Dir,
		StoreDir: string(c.StoreDir), Root: c.Root, Mount: c.Mount, Layer: c.Upper.Layer, State: c.Upper.State,
		Started: time.Now().UTC().Truncate(time.Millisecond), Process: me,
		MountNamespace: ns, Private: !initial,
	}
	old, err := readRun(runPath(c.Upper.Dir))
	if errors.Is(err, ErrNotUp) {
		return nil
	}
	if err != nil {
		return err
	}
	s.old = old.Mounts
	return s.checkDetached(old.Detached)
}

// checkDetached refuses an upper that is still mounted for somebody.
func (s *Stack) checkDetached(records []overlayfs.Record) error {
	for _, r := range records {
		if r.FSType != overlayfs.Type {
			continue
		}
		by := usersOf(r)
		if len(by) == 0 {
			continue
		}
		s.run.Detached = append(s.run.Detached, r)
		return &InUseError{Upper: s.run.Dir, By: by, Why: "the mount of an earlier run, which was detached, still is used"}
	}
	return nil
}

// makePlaces makes the directories of the upper, and those to mount on.
func (s *Stack) makePlaces() error {
	u := s.Config.Upper
	dirs := []string{u.Layer, u.Work, u.Log}
	for _, name := range []string{"db", "profiles", "gcroots", "daemon-socket"} {
		dirs = append(dirs, filepath.Join(u.State, name))
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
			continue
		}
		// What was mounted later may lie on what comes now.
		if err := s.dropOld(ctx); err != nil {
			return err
		}
		if err := s.mount(ctx, st); err != nil {
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
	s.run.Mounts, s.old = append(s.run.Mounts, was), s.old[1:]
	return true, s.save()
}

// dropOld takes down what is left of an earlier run.
func (s *Stack) dropOld(ctx context.Context) error {
	for len(s.old) > 0 {
		last := s.old[len(s.old)-1]
		detached, err := release(ctx, last, s.Config.Lazy)
		if err != nil {
			return &LeftoverError{Role: last.Role, Target: last.Given, Err: err}
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
		crashPoint()
		return nil
	})
	crashPoint()
	if err != nil {
		s.run.Mounts = s.run.Mounts[:n]
		if st.lower != nil && ctx.Err() == nil {
			return st.lower.fail(false, err, "it cannot be mounted")
		}
	}
	return err
}

// crashPoint stands between two steps that a crash may come between; a test puts
// something in its place.
var crashPoint = func() {}

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
	names, err := dir.Readdirnames(1)
	if len(names) == 0 && (err == nil || errors.Is(err, io.EOF)) || s.isKept(st.target) {
		return nil
	}
	if err != nil {
		return err
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
	return all.save()
}

// openLowers opens the lower stores and checks that they fit together.
func (s *Stack) openLowers(ctx context.Context, lowers []*found) error {
	for _, f := range lowers {
		l, err := s.openLower(ctx, f)
		if err != nil {
			return err
		}
		s.lowers = append(s.lowers, l)
		d, _ := store.As[store.Directory](l)
		s.run.Lowers = append(s.run.Lowers, RunLower{Name: f.Name, Kind: f.kind, Given: f.String(), Dir: d.RealDir(), URI: l.URI()})
	}
	return nil
}

func (s *Stack) openLower(ctx context.Context, f *found) (store.Store, error) {
	if f.kind == KindImage {
		if err := f.checkPlaces(false); err != nil {
			return nil, err
		}
	}
	if f.kind == KindStore && f.Store.Scheme == "unix" && s.Config.covers(f.Store.Authority) {
		return nil, f.fail(false, nil, "its socket would be hidden by the mounts of the stack; give the store by its path")
	}
	l, err := s.parts.Open(ctx, f.reference(s.Config.StoreDir))
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, f.fail(false, err, "it cannot be opened")
	}
	if err := s.checkLower(f, l); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (s *Stack) checkLower(f *found, l store.Store) error {
	if l.Dir() != s.Config.StoreDir {
		return f.fail(false, nil, "its store directory is '%s', and that of the stack '%s'; they must be the same", l.Dir(), s.Config.StoreDir)
	}
	d, ok := store.As[store.Directory](l)
	if !ok || d.RealDir() == "" {
		return f.fail(false, nil, "its objects are not files of this machine; say with 'root' or 'real' where they are")
	}
	if st, err := os.Stat(d.RealDir()); err != nil || !st.IsDir() {
		return f.fail(false, err, "its objects should be in '%s'", d.RealDir())
	}
	if s.Config.covers(d.RealDir()) {
		return f.fail(false, nil, "its objects in '%s' would be hidden by the mounts of the stack; give the store by its path", d.RealDir())
	}
	return nil
}

// mountStore mounts the merged directory and shows the state.
func (s *Stack) mountStore(ctx context.Context) error {
	c := &s.Config
	var dirs []string
	for _, l := range s.run.Lowers {
		dirs = append(dirs, l.Dir)
	}
	steps := append([]step{storeStep(overlayfs.Options{
		Lowers: dirs, Upper: c.Upper.Layer, Work: c.Upper.Work, Target: c.Mount,
	})}, c.stateSteps()...)
	return s.mountAll(ctx, steps)
}

// openStore opens the layered store, which closes the lowers from now on.
func (s *Stack) openStore(ctx context.Context) error {
	c := &s.Config
	o := s.parts.Upper
	o.Dir, o.Root, o.Real, o.State, o.Log = c.StoreDir, "", c.Mount, c.Upper.State, c.Upper.Log
	o.ReadOnly = false
	if o.URI == "" {
		o.URI = c.URI()
	}
	st, err := overlay.Open(ctx, overlay.Options{Upper: o, UpperLayer: c.Upper.Layer}, s.lowers)
	if err != nil {
		s.lowers = nil // closed by Open
		return err
	}
	s.Store = st
	return nil
}

// URI is what upstream would open the same layers by.
func (c *Config) URI() string {
	p := map[string][]string{
		"real": {c.Mount}, "state": {c.Upper.State}, "log": {c.Upper.Log}, "upper-layer": {c.Upper.Layer},
	}
	return store.Reference{Scheme: "local-overlay", Params: p}.String()
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
	if !o.KeepStore {
		errs = append(errs, s.closeStores())
	}
	// What was not taken over lies over the rest.
	all := append(s.run.mounts(), s.old...)
	left, detached, err := releaseAll(ctx, all, o.Lazy)
	s.run.Mounts, s.old = left, nil
	s.run.Detached = append(s.run.Detached, detached...)
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
