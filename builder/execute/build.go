package execute

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder/buildlog"
	"github.com/strata-nix/strata/builder/environment"
	"github.com/strata-nix/strata/builder/output"
	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Executor builds derivations in one store with one set of settings. It is cheap
// to make, has nothing to close, and may build any number of jobs at once.
type Executor struct {
	s Store
	o Options
}

// New makes an Executor. Users are locked in the state directory of the store
// unless the options name another one.
func New(s Store, o Options) *Executor {
	if o.Users.StateDir == "" {
		o.Users.StateDir = s.StateDir()
	}
	return &Executor{s: s, o: o}
}

// Build runs the builder of a derivation and registers the outputs. A build that
// fails is a result; an error is about anything else. When ctx ends, the builder
// and all its children are killed. Nothing of the build is left when Build
// returns, see the package's comment for what is meant to stay.
//
// If the post-build hook fails, there is a result and an error: the outputs are
// valid.
func (e *Executor) Build(ctx context.Context, job *Job) (*store.BuildResult, error) {
	b := &build{s: e.s, o: &e.o, dir: e.s.Dir(), job: job}
	defer b.cleanup(context.WithoutCancel(ctx))
	err := b.run(ctx)
	if ctx.Err() != nil && !b.registered {
		return nil, context.Cause(ctx)
	}
	b.cleanup(context.WithoutCancel(ctx))
	if b.registered && err == nil {
		err = b.postBuildHook(ctx, b.outputPaths())
	}
	return b.outcome(err)
}

// build is a job under way.
type build struct {
	s     Store
	o     *Options
	dir   storepath.Dir
	job   *Job
	attrs *derivation.Options
	kind  derivation.Kind
	boxed bool
	// apart tells that the outputs are made in a directory of their own: in a sandbox,
	// or by a builtin builder.
	apart bool
	// weaker is why there is no sandbox although there should be one.
	weaker *sandbox.Abilities

	user    *sandbox.User
	own     *owner // of what the builder may write to; nil: this process's user
	cgroup  *sandbox.Cgroup
	scratch *scratch
	env     *environment.Environment
	tmp     *buildDir
	chroot  *chroot // nil unless apart
	term    *terminal
	act     *activity.Activity // nil before the builder starts
	file    *buildlog.File
	lines   *buildlog.Lines
	nix     *nixServer

	ran        bool // the builder was started
	registered bool
	result     store.BuildResult
}

// parse reads what the derivation says about how it is to be built.
func (b *build) parse() (err error) {
	if b.kind, err = b.job.Drv.Kind(); err == nil {
		b.attrs, err = b.job.Drv.Options(b.dir)
	}
	if err != nil {
		return failf(store.MiscFailure, "while parsing derivation '%s': %v", b.dir.Print(b.job.DrvPath), err)
	}
	return nil
}

// feature tells whether an experimental feature is on.
func (b *build) feature(name string) bool { return slices.Contains(b.o.Features, name) }

// require fails if an experimental feature is not on.
func (b *build) require(name string) error {
	if b.feature(name) {
		return nil
	}
	return failf(store.MiscFailure, "experimental Nix feature '%s' is disabled; add '--extra-experimental-features %s' to enable it", name, name)
}

// run does everything up to the registration.
func (b *build) run(ctx context.Context) error {
	if err := b.parse(); err != nil {
		return err
	}
	if err := b.chooseSandbox(ctx); err != nil {
		return err
	}
	if err := b.takeUser(ctx); err != nil {
		return err
	}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	ctx, b.ran = b.started(ctx), true
	exit, err := b.execute(ctx)
	b.result.TimesBuilt, b.result.Stop = 1, time.Now().Unix()
	b.result.CPUUser, b.result.CPUSystem = exit.User, exit.System
	if err != nil {
		return err
	}
	if !exit.ok() {
		return b.builderFailed(exit.String(), b.diskFull())
	}
	return b.register(ctx)
}

// started begins the activity under which the client sees the build.
func (b *build) started(ctx context.Context) context.Context {
	drv := b.dir.Print(b.job.DrvPath)
	ctx, b.act = activity.Start(ctx, activity.Info, activity.Build, fmt.Sprintf("%s '%s'", doing(b.job.Mode), drv),
		activity.Text(drv), activity.Text(""), activity.Int(1), activity.Int(1))
	b.result.Start = time.Now().Unix()
	return ctx
}

// doing says what a build is for.
func doing(mode store.BuildMode) string {
	switch mode {
	case store.BuildRepair:
		return "repairing outputs of"
	case store.BuildCheck:
		return "checking outputs of"
	default:
		return "building"
	}
}

// outcome makes a result of what is the fault of the derivation.
func (b *build) outcome(err error) (*store.BuildResult, error) {
	r := b.result
	var failed *failure
	var rejected *output.Failure
	switch {
	case err == nil:
		return &r, nil
	case b.registered:
		return &r, err
	case errors.As(err, &failed):
		r.Status, r.Message = failed.status, failed.msg
	case errors.As(err, &rejected):
		r.Status, r.Message = rejected.Status, rejected.Message
	default:
		return nil, fmt.Errorf("while building derivation '%s': %w", b.dir.Print(b.job.DrvPath), err)
	}
	r.NonDeterministic = r.Status == store.NotDeterministic
	return &r, nil
}
