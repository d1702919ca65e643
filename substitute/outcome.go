package substitute

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// unobtainable is the result for a path that no source has; err, if not nil, says
// which one could not be asked.
func (x *run) unobtainable(p storepath.Path, err error) Result {
	return Result{Status: store.NoSubstituters, Failed: err != nil, Err: x.required(p, err)}
}

func (x *run) required(p storepath.Path, err error) error {
	text := fmt.Sprintf("path '%s' is required, but there is no substituter that can build it", x.dest.Dir().Print(p))
	if err == nil {
		return errors.New(text)
	}
	return fmt.Errorf("%s: %w", text, err)
}

// dependent is the result for a path that refers to one that is not to be had.
func (x *run) dependent(p, on storepath.Path, failed bool) Result {
	dir := x.dest.Dir()
	return Result{Status: store.DependencyFailed, Failed: failed, Err: &store.DependencyError{Path: dir.Print(p), On: dir.Print(on)}}
}

// obtainable tells whether all that an object refers to can be had as far as is
// known, or what cannot, and whether that is some source's failure.
func (x *run) obtainable(f *found) (on storepath.Path, failed, ok bool) {
	for _, ref := range f.info.References {
		if r, known := x.outcome[ref]; known && ref != f.info.Path && !r.Status.OK() {
			return ref, r.Failed, false
		}
	}
	return storepath.Path{}, false, true
}

// note keeps the outcome of an import.
func (x *run) note(p storepath.Path, from *store.Offer, err error) {
	var dependency *store.DependencyError
	switch {
	case err == nil:
		if from != nil {
			x.mu.Lock()
			x.at[p].at.worked()
			x.mu.Unlock()
		}
		x.outcome[p] = Result{Status: store.Substituted}
		delete(x.again, p)
		x.tellEarly(p)
	case errors.As(err, &dependency):
		x.outcome[p] = Result{Status: store.DependencyFailed, Failed: true, Err: err}
	default:
		x.outcome[p] = Result{Status: store.NoSubstituters, Failed: x.sourcesFailed(p), Err: x.required(p, err)}
	}
}

// spread says of what failed for the sake of a reference whether that was some
// source's failure. References are looked at first.
func (x *run) spread(f *found) {
	r := x.outcome[f.info.Path]
	if r.Status != store.DependencyFailed {
		return
	}
	if _, failed, ok := x.obtainable(f); !ok {
		r.Failed = failed
		x.outcome[f.info.Path] = r
	}
}

// tellEarly tells of a wanted path whose outcome is certain.
func (x *run) tellEarly(p storepath.Path) {
	if x.opts.Early != nil && x.wanted.Has(p) {
		delete(x.wanted, p)
		x.opts.Early(x.result(p))
	}
}

func (x *run) result(p storepath.Path) Result {
	r := x.outcome[p]
	r.Path = p
	return r
}

// sourcesFailed tells whether any source failed to give a path. That the object has been
// deleted there is no failure, as if it never had been there.
func (x *run) sourcesFailed(p storepath.Path) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, err := range x.tried[p] {
		if !errors.Is(err, store.ErrNotValid) {
			return true
		}
	}
	return len(x.tried[p]) == 0 // it is the destination that failed
}

// expect counts what is to come.
func (x *run) expect(ctx context.Context, imports []store.Import) {
	if x.tally == nil {
		observe := x.opts.Observe
		if observe == nil {
			observe, x.hide = show(ctx)
		}
		x.tally = newTally(observe)
	}
	x.tally.expect(imports)
}
