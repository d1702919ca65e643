package remote

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// uploadPatience is how long one waits for others to send their inputs to the same
// machine, before all do it at once.
const uploadPatience = 15 * time.Minute

// Build implements Place.
func (p *machinePlace) Build(ctx context.Context, job *execute.Job) (*store.BuildResult, error) {
	dir := p.f.o.Local.Dir()
	drv := dir.Print(job.DrvPath)
	if err := p.upload(ctx, job); err != nil {
		return nil, fmt.Errorf("copying what derivation '%s' needs to '%s': %w", drv, p.Name(), err)
	}
	log, ctx, err := openLog(ctx, &p.f.o.Execute, p.f.o.Local, job, p.Name())
	if err != nil {
		return nil, err
	}
	p.tellLines(log.line)
	start := time.Now().Unix()
	result, err := p.perform(ctx, job)
	switch {
	case err != nil && ctx.Err() != nil:
		err = context.Cause(ctx)
	case err != nil:
		err = fmt.Errorf("building derivation '%s' on '%s': %w", drv, p.Name(), err)
	default:
		if result.Start == 0 {
			result.Start, result.Stop = start, time.Now().Unix()
		}
		if result.Status.OK() {
			result, err = p.takeOutputs(ctx, job, result)
		}
	}
	// Lines beside the protocol have no end but that of the connection: the last of them
	// may come after the answer.
	p.disconnect()
	p.tellLines(nil)
	log.close()
	if err != nil {
		return nil, err
	}
	if !result.Status.OK() {
		result.Message = log.explain(drv, result.Message)
	}
	return result, nil
}

// upload brings everything that a derivation is built from to the machine. One
// process at a time does that, so that what two need travels once.
func (p *machinePlace) upload(ctx context.Context, job *execute.Job) error {
	lock, err := flock.Open(filepath.Join(p.f.loadDir, escape(p.m.URI)+".upload-lock"))
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := p.awaitUploads(ctx, lock); err != nil {
		return err
	}
	ctx, act := activity.Start(ctx, activity.Talkative, activity.Unknown, "copying dependencies to '"+p.Name()+"'")
	defer act.Stop()
	return p.provide(ctx, job.Inputs)
}

func (p *machinePlace) awaitUploads(ctx context.Context, lock *flock.Lock) error {
	_, act := activity.Start(ctx, activity.Talkative, activity.Unknown, "waiting for the upload lock to '"+p.Name()+"'")
	defer act.Stop()
	patient, cancel := context.WithTimeout(ctx, uploadPatience)
	defer cancel()
	err := lock.Lock(patient, flock.Exclusive, nil)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded):
		activity.Warnf(ctx, "somebody is hogging the upload lock for '%s', continuing...", p.Name())
		return nil
	}
	return err
}

// perform has the derivation built. Where nobody believes us which paths the outputs
// of an input-addressed derivation have, the derivation itself goes there with its
// closure, from which they follow.
func (p *machinePlace) perform(ctx context.Context, job *execute.Job) (*store.BuildResult, error) {
	kind, err := job.Drv.Kind()
	if err != nil {
		return nil, err
	}
	trusted := true // by a machine that does not tell
	if t, ok := store.As[store.Truster](p.st); ok {
		trust, err := t.Trust(ctx)
		if err != nil {
			return nil, err
		}
		trusted = trust != store.NotTrusted
	}
	if trusted || kind.IsContentAddressed() {
		b, err := store.Need[store.DerivationBuilder](p.st, "buildDerivation")
		if err != nil {
			return nil, err
		}
		return b.BuildDerivation(ctx, job.DrvPath, job.Drv, store.BuildNormal)
	}
	closure, err := store.Closure(ctx, p.f.o.Local, []storepath.Path{job.DrvPath})
	if err != nil {
		return nil, err
	}
	if err := p.provide(ctx, closure); err != nil {
		return nil, err
	}
	b, err := store.Need[store.Builder](p.st, "buildPaths")
	if err != nil {
		return nil, err
	}
	results, err := b.BuildPaths(ctx, []derivation.DerivedPath{{Path: job.DrvPath, Outputs: []string{derivation.AllOutputs}}}, store.BuildNormal)
	if err != nil {
		return nil, err
	}
	if len(results) != 1 || results[0] == nil {
		return nil, errors.New("no result came back")
	}
	return results[0], nil
}

// takeOutputs brings the outputs, and what they were realised as.
func (p *machinePlace) takeOutputs(ctx context.Context, job *execute.Job, result *store.BuildResult) (*store.BuildResult, error) {
	drv := p.f.o.Local.Dir().Print(job.DrvPath)
	out := *result
	out.Status, out.Outputs = store.Built, map[string]*store.Realisation{}
	var paths []storepath.Path
	var fresh []*store.Realisation
	for name, o := range job.Outputs {
		real := &store.Realisation{ID: store.DrvOutput{DrvHash: job.Hashes[name], Output: name}, OutPath: o.Path}
		if o.Path.IsZero() {
			told := result.Outputs[name]
			if told == nil {
				return nil, fmt.Errorf("'%s' has built derivation '%s', and does not tell where its output '%s' is", p.Name(), drv, name)
			}
			real.OutPath, real.Dependent = told.OutPath, told.Dependent
			fresh = append(fresh, real)
		}
		out.Outputs[name] = real
		paths = append(paths, real.OutPath)
	}
	paths = storepath.SortUnique(paths)
	if job.Roots != nil {
		if err := job.Roots.Add(ctx, paths); err != nil {
			return nil, err
		}
	}
	if err := p.bring(ctx, paths, job.Roots); err != nil {
		return nil, fmt.Errorf("copying the outputs of derivation '%s' from '%s': %w", drv, p.Name(), err)
	}
	if len(fresh) > 0 {
		if err := p.f.o.Local.RegisterRealisations(ctx, fresh); err != nil {
			return nil, err
		}
	}
	e := &p.f.o.Execute
	return &out, execute.PostBuildHook(ctx, e, p.f.o.Local.Dir(), job.DrvPath, paths)
}

func (p *machinePlace) bring(ctx context.Context, paths []storepath.Path, roots store.TempRoots) error {
	ctx, act := activity.Start(ctx, activity.Talkative, activity.Unknown, "copying outputs from '"+p.Name()+"'")
	defer act.Stop()
	return p.fetch(ctx, paths, roots)
}
