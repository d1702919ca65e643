package stack

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/pivot"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/storepath"
)

// OnLowerChange says what happens when a stack comes up over other lowers than those that its
// upper was made for.
type OnLowerChange int

// What may happen.
const (
	PivotOnChange  OnLowerChange = iota // the upper is moved to them, if nothing is lost by that
	RefuseOnChange                      // the stack does not come up, unless nothing is to be done
)

// ParseOnLowerChange reads "pivot" or "refuse"; "" is the default.
func ParseOnLowerChange(text string) (OnLowerChange, error) {
	switch text {
	case "", "pivot":
		return PivotOnChange, nil
	case "refuse":
		return RefuseOnChange, nil
	}
	return 0, fmt.Errorf("'%.40s' is neither \"pivot\" nor \"refuse\"", text)
}

// PivotOptions say to which lowers an upper is moved, and how.
type PivotOptions struct {
	// Lowers are the new ones, first wins; none: those of the configuration.
	Lowers []Lower `json:"lowers,omitempty"`
	// Old are where old lowers are now that are not where they were, or more places that
	// have what they had.
	Old []Lower `json:"old,omitempty"`
	// OnlyLive, DropRoots and DropMissing are those of [pivot.Options].
	OnlyLive    bool `json:"onlyLive,omitempty"`
	DropRoots   bool `json:"dropRoots,omitempty"`
	DropMissing bool `json:"dropMissing,omitempty"`
	// Substituters, if not nil, are asked for what no lower has, instead of those of the
	// settings: one of these may be down for good, and nothing is dropped for its silence.
	Substituters *[]string `json:"substituters,omitempty"`
	// IgnoreProcesses does not copy what only running programs use. They go on with
	// what they have open.
	IgnoreProcesses bool `json:"ignoreProcesses,omitempty"`
	// Rebuild has what neither old lowers nor substituters have built anew, as far as its
	// derivation and what that needs are there.
	Rebuild bool `json:"rebuild,omitempty"`
	// DryRun plans, and does nothing.
	DryRun bool `json:"dryRun,omitempty"`
	// Wait is how long operations of clients may go on that are under way; DefaultWait
	// if 0.
	Wait time.Duration `json:"wait,omitempty"`
}

// DefaultWait is how long a pivot waits for operations of clients to end.
const DefaultWait = 30 * time.Second

// PivotResult is what a pivot did, or would do. Its JSON form is described in
// doc/formats/pivot-json.md.
type PivotResult struct {
	Stack  string `json:"stack"`
	DryRun bool   `json:"dryRun"`
	// Done tells that the upper is made for the new lowers now.
	Done    bool    `json:"done"`
	Changes Changes `json:"changes"`
	// Plan is nil if there is nothing to be done to the upper.
	Plan *pivot.Report `json:"plan,omitempty"`
	// StillUsed are some of the processes that run over the old lowers.
	StillUsed []string `json:"stillUsed,omitempty"`
	// Refused says why the plan cannot be carried out as it is.
	Refused string `json:"refused,omitempty"`
}

// LowersChangedError says that the lowers of a stack are not those that its upper was made
// for.
type LowersChangedError struct {
	Changes Changes
	// Err says why the upper cannot be moved to them; nil: it was not to be.
	Err error
}

func (e *LowersChangedError) Error() string {
	s := "the lowers are not those that the upper was made for"
	for _, c := range e.Changes {
		if c.Kind != LowerSame && c.Kind != LowerGrew {
			s += "\n  " + c.String()
		}
	}
	if e.Err != nil {
		return s + "\nand the upper cannot be moved to them: " + e.Err.Error() + "\n'strata pivot' can drop what is missing, or take it from elsewhere"
	}
	return s + "\n'strata pivot' moves the upper to them"
}

// Unwrap makes it an ErrLower.
func (e *LowersChangedError) Unwrap() []error { return []error{ErrLower, e.Err} }

// pivots is what a stack knows of its pivots.
type pivots struct {
	mu sync.Mutex // held by the one that is under way
	// pause makes clients wait; nil: there are none.
	pause func(context.Context) (resume func(), err error)
	// failed gets the error of a pivot that was committed and could not be completed.
	failed chan error
	cancel context.CancelFunc // of what waits for the old mount to be free
	wg     sync.WaitGroup
}

func (p *pivots) stop() {
	if p.cancel != nil {
		p.cancel()
	}
	p.wg.Wait()
}

// Serving tells the stack how clients can be made to wait for as long as its lowers change. The
// channel gets an error when that fails half-way: then nobody may be served any more, and the next
// [Assemble] completes it. It is called before [Stack.Announce].
func (s *Stack) Serving(pause func(context.Context) (resume func(), err error)) <-chan error {
	s.pivots.pause, s.pivots.failed = pause, make(chan error, 1)
	return s.pivots.failed
}

// target is what the journal of a pivot says of the new lowers.
type target struct {
	Lowers []MadeLower `json:"lowers"`
}

// recordDir is where is written down what the upper was made for, and how far a pivot is. An
// upper in memory takes that along.
func (c *Config) recordDir() string {
	if c.Upper.Tmpfs > 0 {
		return filepath.Join(c.Upper.Dir, tmpfsDir)
	}
	return c.Upper.Dir
}

func (c *Config) journalPath() string { return filepath.Join(c.recordDir(), "pivot.journal") }

func (c *Config) stagePath() string {
	return filepath.Join(filepath.Dir(c.Upper.Layer), ".strata-pivot-"+filepath.Base(c.Upper.Layer))
}

// options are those of the plan.
func (o PivotOptions) options() pivot.Options {
	return pivot.Options{OnlyLive: o.OnlyLive, DropRoots: o.DropRoots, DropMissing: o.DropMissing}
}

// pivotParts are the parts of every pivot of the stack.
func (s *Stack) pivotParts(db *nixdb.DB, o PivotOptions) (pivot.Parts, error) {
	c := &s.Config
	user, err := overlayfs.UsesUserXattr(c.Upper.Layer)
	p := pivot.Parts{
		Dir: c.StoreDir, DB: db, Layer: c.Upper.Layer, Work: filepath.Join(c.Upper.Work, "work"), UserXattr: user,
		Stage: c.stagePath(), Journal: c.journalPath(), StateDir: c.Upper.State,
		Roots:       func(ctx context.Context) (pivot.Roots, error) { return s.pivotRoots(ctx, !o.IgnoreProcesses) },
		KeepOutputs: s.parts.Upper.KeepOutputs, KeepDerivations: !s.parts.Upper.DropDerivations, CADerivations: s.parts.Upper.CADerivations,
		Unreadable: map[storepath.Path]error{},
	}
	if uris := o.substituters(&s.parts.Upper); s.parts.Upper.Pool != nil && len(uris) > 0 {
		p.Sources = func(ctx context.Context) ([]pivot.Source, error) { return s.pivotSources(ctx, uris) }
	}
	if err == nil {
		p.Kept, err = check.ReadKept(c.Upper.State)
	}
	return p, err
}

// substituters are those that are asked for what no lower has.
func (o PivotOptions) substituters(settings *local.Options) []string {
	switch {
	case o.Substituters != nil:
		return *o.Substituters
	case settings.NoSubstitute:
		return nil
	}
	return settings.Substituters
}

// pivotSources are substituters. One that cannot be opened is told.
func (s *Stack) pivotSources(ctx context.Context, uris []string) (out []pivot.Source, err error) {
	sources, failed, err := s.parts.Upper.Pool.Sources(ctx, uris)
	for _, f := range failed {
		s.parts.Log.Warn(f.Error())
		out = append(out, pivot.Source{Name: f.URI, Err: f})
	}
	for _, src := range sources {
		out = append(out, pivot.Source{Name: src.Name, Store: src.Store})
	}
	return out, err
}

// pivotRoots finds the gc roots of the upper.
func (s *Stack) pivotRoots(ctx context.Context, processes bool) (r pivot.Roots, err error) {
	c := &s.Config
	// First: who lets go of a temporary root may have made a link of it just before.
	if r.InUse, err = gc.ReadTempRoots(ctx, filepath.Join(c.Upper.State, "temproots"), c.StoreDir); err != nil {
		return r, err
	}
	if r.Links, err = gc.LinkRoots(ctx, c.Upper.State, c.StoreDir); err != nil {
		return r, err
	}
	add := func(more store.Roots) {
		for p, by := range more {
			r.InUse[p] = append(r.InUse[p], by...)
		}
	}
	if leases := s.parts.Upper.Leases; leases != nil && s.Store != nil { // of those who have this stack for a lower
		leased, err := leases.Roots(ctx, s.Store, s.parts.Upper.SkipLeases...)
		if err != nil {
			return r, err
		}
		add(leased)
	}
	if processes {
		running, err := gc.Parts{
			Dir: c.StoreDir, StateDir: c.Upper.State, SeenAt: []string{c.Mount, c.Upper.Layer},
			RootsDaemon: s.parts.Upper.UseRootsDaemon && s.Store != nil, // it may not be up yet when the stack comes up
		}.RuntimeRoots(ctx)
		if err != nil {
			return r, err
		}
		add(running)
	}
	return r, nil
}

// pivotLowers are lowers as package pivot takes them.
func pivotLowers(all []PresentLower) (out []pivot.Lower) {
	for _, l := range all {
		out = append(out, pivot.Lower{Name: l.Name, Store: l.Store, Dir: l.Dir})
	}
	return out
}

// identities are what identifies lowers, for the record of the upper.
func identities(ctx context.Context, all []PresentLower) ([]MadeLower, error) {
	var out []MadeLower
	for _, l := range all {
		m, err := IdentifyLower(ctx, l.RunLower, l.Store)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// carry makes the copies of a plan. What turns out to be unreadable is planned again, and
// is missing then. It gives the plan that counts.
func carry(ctx context.Context, parts pivot.Parts, o pivot.Options, job *pivot.Job, plan *pivot.Plan) (*pivot.Plan, error) {
	for {
		err := job.Stage(ctx)
		var missing *pivot.MissingError
		if !errors.As(err, &missing) {
			return plan, err
		}
		for _, m := range missing.Missing {
			parts.Unreadable[m.Path] = m.Why
		}
		if plan, err = pivot.Make(ctx, parts, o); err != nil {
			return nil, err
		}
		if err := job.Change(ctx, plan); err != nil {
			return nil, err
		}
	}
}

// sameLowers tells whether lowers are given in the same way as those that were recorded.
func sameLowers(lowers []Lower, made []MadeLower) bool {
	return slices.EqualFunc(lowers, made, func(l Lower, m MadeLower) bool {
		return l.Name == m.Name && l.String() == m.Given && l.Real == m.Real && l.State == m.State
	})
}
