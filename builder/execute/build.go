package execute

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder/buildlog"
	"github.com/strata-nix/strata/builder/environment"
	"github.com/strata-nix/strata/builder/output"
	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nar"
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
	b, err := e.newBuild(job)
	if err != nil {
		return nil, fmt.Errorf("while building derivation '%s': %w", e.s.Dir().Print(job.DrvPath), err)
	}
	defer b.cleanup(context.WithoutCancel(ctx))
	err = b.run(ctx)
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
	act     *activity.Activity
	ownAct  bool // act ends with the build
	file    *buildlog.File
	lines   *buildlog.Lines
	nix     *nixServer

	ran        bool // the builder was started
	registered bool
	result     store.BuildResult
}

func (e *Executor) newBuild(job *Job) (*build, error) {
	b := &build{s: e.s, o: &e.o, dir: e.s.Dir(), job: job}
	var err error
	if b.kind, err = job.Drv.Kind(); err != nil {
		return nil, err
	}
	if b.attrs, err = job.Drv.Options(b.dir); err != nil {
		return nil, err
	}
	return b, nil
}

// feature tells whether an experimental feature is on.
func (b *build) feature(name string) bool { return slices.Contains(b.o.Features, name) }

// require is the error of an experimental feature that is not on.
func (b *build) require(name string) error {
	if b.feature(name) {
		return nil
	}
	return fmt.Errorf("experimental Nix feature '%s' is disabled; add '--extra-experimental-features %s' to enable it", name, name)
}

// run does everything from the choice of a user to the registration.
func (b *build) run(ctx context.Context) error {
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

// prepare makes all that the builder finds.
func (b *build) prepare(ctx context.Context) (err error) {
	if b.scratch, err = newScratch(b.dir, b.job, b.apart); err != nil {
		return err
	}
	if err := b.clearPlaces(ctx); err != nil {
		return err
	}
	if !b.job.Drv.IsBuiltin() {
		if err := checkCommand(b.job.Drv); err != nil {
			return err
		}
		parent := b.o.BuildDir
		if parent == "" {
			parent = defaultBuildDir(b.s)
		}
		if b.tmp, err = newBuildDir(ctx, parent, b.boxed, b.own); err != nil {
			return err
		}
		if err := b.makeEnvironment(ctx); err != nil {
			return err
		}
	}
	if b.apart {
		b.chroot, err = newChroot(ctx, b)
	}
	return err
}

// checkCommand refuses what no process can be given.
func checkCommand(drv *derivation.Basic) error {
	for _, s := range append([]string{drv.Builder}, drv.Args...) {
		if strings.IndexByte(s, 0) >= 0 {
			return failf(store.InputRejected, "builder or argument %.100q has a NUL byte in it", s)
		}
	}
	return nil
}

// clearPlaces removes what lies where a builder without sandbox is to put its
// outputs. In a directory of their own nothing is there.
func (b *build) clearPlaces(ctx context.Context) error {
	if b.apart {
		return nil
	}
	for _, p := range b.scratch.paths {
		if _, err := nar.RemoveTree(ctx, b.real(p)); err != nil {
			return fmt.Errorf("removing invalid path '%s': %w", b.dir.Print(p), err)
		}
	}
	return nil
}

// makeEnvironment makes the variables, and writes the files.
func (b *build) makeEnvironment(ctx context.Context) error {
	env, err := environment.Make(ctx, environment.Spec{
		Store: b.s, Drv: b.job.Drv, Options: b.attrs, Inputs: b.job.Inputs,
		BuildDir: b.seenBuildDir(), Cores: b.o.Cores, ImpureEnv: b.o.ImpureEnv,
	})
	var rejected *environment.RejectedError
	if errors.As(err, &rejected) {
		return failf(store.InputRejected, "%s", rejected.Why)
	}
	if err != nil {
		return err
	}
	if len(b.o.ImpureEnv) > 0 && !b.kind.IsSandboxed() {
		if err := b.require("configurable-impure-env"); err != nil {
			return err
		}
	}
	if b.attrs.RecursiveNix() {
		env.Vars["NIX_REMOTE"] = nixRemote(b.seenBuildDir())
	}
	env.Rewrite(b.scratch.rewrites)
	for name, contents := range env.Files {
		if err := b.tmp.write(name, contents, b.own); err != nil {
			return err
		}
	}
	b.env = env
	return nil
}

// seenBuildDir is the build directory as the builder knows it.
func (b *build) seenBuildDir() string {
	if !b.boxed {
		return b.tmp.path
	}
	if b.o.SandboxBuildDir != "" {
		return b.o.SandboxBuildDir
	}
	return "/build"
}

// started begins the activity under which the client sees the build.
func (b *build) started(ctx context.Context) context.Context {
	b.act = b.job.Activity
	if b.act == nil {
		drv := b.dir.Print(b.job.DrvPath)
		doing := map[store.BuildMode]string{
			store.BuildNormal: "building '%s'", store.BuildRepair: "repairing outputs of '%s'", store.BuildCheck: "checking outputs of '%s'",
		}[b.job.Mode]
		ctx, b.act = activity.Start(ctx, activity.Info, activity.Build, fmt.Sprintf(doing, drv),
			activity.Text(drv), activity.Text(""), activity.Int(1), activity.Int(1))
		b.ownAct = true
	}
	b.result.Start = time.Now().Unix()
	return ctx
}

// register makes valid what the builder left.
func (b *build) register(ctx context.Context) error {
	outs := make(map[string]output.Output, len(b.job.Outputs))
	for name, out := range b.job.Outputs {
		p := b.scratch.paths[name]
		outs[name] = output.Output{Path: out.Path, Valid: out.Valid, Intact: out.Intact, Scratch: p, Real: b.realScratch(p)}
	}
	job := &output.Job{
		DrvPath: b.job.DrvPath, Drv: b.job.Drv, Attrs: b.attrs, Mode: b.job.Mode,
		Inputs: b.job.Inputs, Hashes: b.job.Hashes, Outputs: outs, Roots: b.job.Roots,
	}
	if b.tmp != nil {
		job.BuildDir = b.tmp.path
	}
	if b.nix != nil {
		job.Added = b.nix.store.Added()
	}
	o := output.Options{
		IgnoredACLs: b.o.IgnoredACLs, Keys: b.o.SecretKeys, Realisations: b.feature("ca-derivations"),
		KeepFailed: b.o.KeepFailed, DiffHook: b.o.DiffHook,
	}
	if b.user != nil {
		o.Builder = &output.Owner{UID: b.user.UID, GID: b.user.GID}
		o.Owners = &nar.UIDRange{First: b.user.UID, Last: b.user.UID + b.user.Count - 1}
	}
	res, err := output.Register(ctx, b.s, job, o)
	if err != nil {
		return err
	}
	b.registered = true
	b.result.Status, b.result.Outputs = store.Built, res.Realisations
	return nil
}

// outputPaths are those that the post-build hook is told.
func (b *build) outputPaths() []storepath.Path {
	var paths []storepath.Path
	for _, real := range b.result.Outputs {
		paths = append(paths, real.OutPath)
	}
	if b.job.Mode == store.BuildCheck {
		for _, out := range b.job.Outputs {
			paths = append(paths, out.Path)
		}
	}
	return paths
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
