package remote

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/store"
)

// Opener opens the store of a machine. Of o the limits count, and whether failed
// builds are kept. tell gets what is said beside the protocol, line by line: with the
// older protocol that is what builders print.
type Opener func(ctx context.Context, ref store.Reference, o *execute.Options, tell func(line string)) (store.Store, error)

// Options say how machines are used.
type Options struct {
	Machines []Machine
	// Local is the store for which things are built.
	Local Local
	Open  Opener
	// UseSubstitutes has machines get from their own substituters what they can
	// ("builders-use-substitutes").
	UseSubstitutes bool
	// Execute are the settings of builds; those for the log and hooks count here.
	Execute execute.Options
}

// Local is the store that gives inputs and takes outputs.
type Local interface {
	execute.Store
	store.NarSource
	store.MultiAdder
	store.RealisationQuerier
	store.RealisationRegistrar
}

// Answer is what somebody says who was asked for a place.
type Answer int

// The answers.
const (
	// Decline: this cannot be built elsewhere.
	Decline Answer = iota
	// Postpone: it could be, but not now.
	Postpone
	// Accept: there is a place.
	Accept
)

// Place is where one derivation can be built.
type Place interface {
	// Name is the machine's, for people.
	Name() string
	// Connect makes sure that it can be used. After an error somebody else is to be
	// asked; the place is given up then.
	Connect(ctx context.Context) error
	// Build builds there and brings the outputs. As with execute.Executor, a build that
	// fails is a result.
	Build(ctx context.Context, job *execute.Job) (*store.BuildResult, error)
	// Release gives the place up. It may be called again.
	Release()
}

// Farm is the machines as one request sees them. It is for any number of
// goroutines.
type Farm struct {
	o       Options
	loadDir string

	mu   sync.Mutex
	gone map[string]bool // URIs of machines that could not be reached
}

// NewFarm makes the farm of a request. It has nothing to close.
func NewFarm(o Options) *Farm {
	return &Farm{o: o, loadDir: filepath.Join(o.Local.StateDir(), "current-load"), gone: map[string]bool{}}
}

// Suits tells whether there is a machine that could build this.
func (f *Farm) Suits(n Need) bool {
	for i := range f.o.Machines {
		if m := &f.o.Machines[i]; m.Suits(n) && !f.isGone(m) {
			return true
		}
	}
	return false
}

func (f *Farm) isGone(m *Machine) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gone[m.URI]
}

// Ask looks for a place. willing tells that this machine could build it at once, so
// that nobody has to wait for another one. Accept comes with a place, which the
// caller releases.
func (f *Farm) Ask(ctx context.Context, _ string, n Need, willing bool) (Answer, Place, error) {
	if len(f.o.Machines) == 0 {
		return Decline, nil, nil
	}
	if err := os.MkdirAll(f.loadDir, 0o777); err != nil { //nolint:gosec // as Nix makes it
		return Decline, nil, fmt.Errorf("looking for a machine to build on: %w", err)
	}
	// Who looks at all files must not meet somebody who does the same.
	main, err := flock.Open(filepath.Join(f.loadDir, "main-lock"))
	if err != nil {
		return Decline, nil, fmt.Errorf("looking for a machine to build on: %w", err)
	}
	defer func() { _ = main.Close() }()
	if err := main.Lock(ctx, flock.Exclusive, nil); err != nil {
		return Decline, nil, fmt.Errorf("looking for a machine to build on: %w", err)
	}
	best, suited, err := f.best(n)
	switch {
	case err != nil:
		return Decline, nil, fmt.Errorf("looking for a machine to build on: %w", err)
	case best != nil:
		now := time.Now()
		_ = unix.Futimes(int(best.lock.File().Fd()), []unix.Timeval{unix.NsecToTimeval(now.UnixNano()), unix.NsecToTimeval(now.UnixNano())}) // for people
		return Accept, &machinePlace{f: f, m: best.m, lock: best.lock}, nil
	case suited && !willing:
		return Postpone, nil, nil
	}
	return Decline, nil, nil
}

// Close has nothing to do.
func (f *Farm) Close() {}

// candidate is a machine with a place.
type candidate struct {
	m    *Machine
	lock *flock.Lock
	load float64 // jobs by speed
	jobs int
}

// before tells whether one is to be preferred to another.
func (c *candidate) before(other *candidate) bool {
	switch {
	case other == nil || c.load < other.load:
		return true
	case c.load > other.load:
		return false
	case c.m.Speed != other.m.Speed:
		return c.m.Speed > other.m.Speed
	}
	return c.jobs < other.jobs
}

// best finds the machine that has least to do for its speed.
func (f *Farm) best(n Need) (best *candidate, suited bool, err error) {
	for i := range f.o.Machines {
		m := &f.o.Machines[i]
		if f.isGone(m) || !m.Suits(n) {
			continue
		}
		suited = true
		c, lookErr := f.look(m)
		if lookErr != nil {
			err = errors.Join(err, lookErr)
			continue
		}
		if c == nil {
			continue
		}
		if c.before(best) {
			best, c = c, best
		}
		if c != nil {
			_ = c.lock.Close()
		}
	}
	if best != nil {
		err = nil
	}
	return best, suited, err
}

// look counts the jobs of a machine, and has one of its places locked. nil: it has
// none.
func (f *Farm) look(m *Machine) (*candidate, error) {
	c := &candidate{m: m}
	for slot := range m.MaxJobs {
		l, err := flock.Open(filepath.Join(f.loadDir, fmt.Sprintf("%s-%d", escape(m.URI), slot)))
		if err != nil {
			return nil, err
		}
		free, err := l.Try(flock.Exclusive)
		switch {
		case err != nil:
			_ = l.Close()
			return nil, err
		case free && c.lock == nil:
			c.lock = l
			continue
		case !free:
			c.jobs++
		}
		_ = l.Close()
	}
	if c.lock == nil {
		return nil, nil
	}
	c.load = float64(c.jobs) / m.Speed
	return c, nil
}

// escape makes the name of a file.
func escape(uri string) string {
	const most = 200
	s := strings.ReplaceAll(uri, "/", "_")
	return s[max(len(s)-most, 0):]
}

// machinePlace is a place on a machine of a farm.
type machinePlace struct {
	f    *Farm
	m    *Machine
	lock *flock.Lock
	st   store.Store // once it is connected
	// roots keep there what the build needs; nil until they do.
	roots store.TempRoots

	mu    sync.Mutex
	lines func(string) // what takes the lines that come beside the protocol
	early []string     // those that came before somebody did
}

// Name implements Place.
func (p *machinePlace) Name() string { return p.m.URI }

// Connect implements Place.
func (p *machinePlace) Connect(ctx context.Context) error {
	ctx, act := activity.Start(ctx, activity.Talkative, activity.Unknown, "connecting to '"+p.m.URI+"'")
	defer act.Stop()
	st, err := p.f.o.Open(ctx, p.m.Store, &p.f.o.Execute, p.hear)
	if err == nil {
		p.st = st
		return nil
	}
	if ctx.Err() == nil {
		p.f.mu.Lock()
		p.f.gone[p.m.URI] = true
		p.f.mu.Unlock()
	}
	p.Release()
	return fmt.Errorf("cannot build on '%s': %w", p.m.URI, err)
}

// maxEarly is how many lines are kept for whoever takes the log.
const maxEarly = 100

func (p *machinePlace) hear(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lines != nil {
		p.lines(line)
	} else if len(p.early) < maxEarly {
		p.early = append(p.early, line)
	}
}

func (p *machinePlace) tellLines(to func(string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lines = to; to == nil {
		return
	}
	for _, line := range p.early {
		to(line)
	}
	p.early = nil
}

// Release implements Place.
func (p *machinePlace) Release() {
	if p.roots != nil {
		_ = p.roots.Close()
		p.roots = nil
	}
	p.disconnect()
	if p.lock != nil {
		_ = p.lock.Close()
		p.lock = nil
	}
}

// disconnect returns when all that the machine said has been heard.
func (p *machinePlace) disconnect() {
	if p.st != nil {
		_ = p.st.Close() // nothing of it is needed any more
		p.st = nil
	}
}
