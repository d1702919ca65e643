package builder

import (
	"context"
	"errors"
	"sync"

	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Builder is what the requests on one store have in common: the builds that are
// under way. It is for any number of goroutines, and has nothing to close.
type Builder struct {
	executor func(Store, execute.Options) Executor

	mu     sync.Mutex
	builds map[shareKey]*shared
}

// New makes the Builder of a store. executor gives what runs its builders; nil:
// [execute.New].
func New(executor func(Store, execute.Options) Executor) *Builder {
	if executor == nil {
		executor = func(s Store, o execute.Options) Executor { return execute.New(s, o) }
	}
	return &Builder{executor: executor, builds: map[shareKey]*shared{}}
}

// Failure is a result that is an error.
type Failure struct{ Result *store.BuildResult }

func (f *Failure) Error() string { return f.Result.Message }

// ExitStatus is what Nix's commands exit with, see [store.ExitStatus].
func (f *Failure) ExitStatus() uint64 {
	if f.Result.ExitStatus != 0 {
		return f.Result.ExitStatus
	}
	return store.ExitStatus(f.Result.Status)
}

// BuildPaths realises targets, see [store.Builder]. What is made valid, and what
// that took, is kept by the temporary roots of the caller ([store.WithTempRoots]), if
// it has any, else until BuildPaths comes back.
func (b *Builder) BuildPaths(ctx context.Context, v View, targets []derivation.DerivedPath, mode store.BuildMode) ([]*store.BuildResult, error) {
	return b.do(ctx, v, func(r *request) ([]*goal, error) {
		goals := make([]*goal, len(targets))
		for i, t := range targets {
			goals[i] = r.want(t, mode)
		}
		return goals, nil
	}, targets)
}

// BuildDerivation builds all outputs of a derivation whose inputs are valid, see
// [store.DerivationBuilder].
func (b *Builder) BuildDerivation(ctx context.Context, v View, p storepath.Path, basic *derivation.Basic, mode store.BuildMode) (*store.BuildResult, error) {
	target := derivation.DerivedPath{Path: p, Outputs: []string{derivation.AllOutputs}}
	results, err := b.do(ctx, v, func(r *request) ([]*goal, error) {
		drv := &derivation.Derivation{Basic: *basic}
		text, err := drv.ATerm(v.Store.Dir())
		if err != nil {
			return nil, err
		}
		n, err := r.node(ctx, p, drv, mode)
		if err != nil {
			return nil, err
		}
		n.text = nixhash.Of(nixhash.SHA256, string(text))
		return []*goal{r.want(target, mode)}, r.roots.Add(ctx, []storepath.Path{p})
	}, []derivation.DerivedPath{target})
	switch {
	case err == nil:
		return results[0], nil
	case ctx.Err() != nil:
		return nil, err
	}
	// Whoever sent the derivation wants a result also when it makes no sense.
	return &store.BuildResult{Path: target, Status: store.MiscFailure, Message: err.Error()}, nil
}

// EnsurePath makes p valid, see [store.Ensurer]. A [Failure] says why it cannot
// be.
func (b *Builder) EnsurePath(ctx context.Context, v View, p storepath.Path) error {
	valid, err := v.Store.ValidPaths(ctx, []storepath.Path{p})
	if err != nil || len(valid) > 0 {
		return err
	}
	results, err := b.BuildPaths(ctx, v, []derivation.DerivedPath{{Path: p}}, store.BuildNormal)
	if err != nil {
		return err
	}
	if !results[0].Status.OK() {
		return &Failure{results[0]}
	}
	return nil
}

// do runs a request.
func (b *Builder) do(ctx context.Context, v View, begin func(*request) ([]*goal, error), targets []derivation.DerivedPath) (results []*store.BuildResult, err error) {
	roots := store.TempRootsOf(ctx)
	if roots == nil {
		roots = v.Store.NewTempRoots()
		defer func() { err = errors.Join(err, roots.Close()) }()
	}
	r := b.newRequest(v, roots)
	goals, err := begin(r)
	if err != nil {
		return nil, err
	}
	if err := r.run(ctx, goals); err != nil {
		return nil, err
	}
	if err := r.register(ctx, r.batch.realisation); err != nil {
		return nil, err
	}
	return r.results(goals, targets), nil
}

// results are those of the top goals, nil for those that were given up.
func (r *request) results(goals []*goal, targets []derivation.DerivedPath) []*store.BuildResult {
	out := make([]*store.BuildResult, len(goals))
	for i, g := range goals {
		if g.state == open {
			continue
		}
		result := *g.result
		result.Path = targets[i]
		if !result.Status.OK() {
			result.ExitStatus = store.ExitStatus(r.failures...)
		}
		out[i] = &result
	}
	return out
}
