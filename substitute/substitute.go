package substitute

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Options say how paths are substituted.
type Options struct {
	// Repair replaces the wanted paths although they are valid; what they refer to
	// is left alone if it is valid.
	Repair bool
	// Roots get each path before anything of it is on disk; nil: those of the context,
	// if it has any.
	Roots store.TempRoots
	// Observe, if not nil, hears how far it is, one call at a time, instead of
	// activities of type Realise and CopyPaths that the engine would start itself.
	Observe func(Count)
	// Early, if not nil, hears of the results of wanted paths that are certain before
	// all is over: that nobody has it, or that it has come. One call at a time, and at
	// most one for a path.
	Early func(Result)
}

// Result is the outcome for a wanted path.
type Result struct {
	Path storepath.Path
	// Status is Substituted, AlreadyValid, NoSubstituters or DependencyFailed.
	Status store.BuildStatus
	// Failed tells of a path that is not valid now that it, or what it refers to, could
	// perhaps have been had, but its sources failed. Stock Nix does not go on to
	// build it then, unless `fallback` is set.
	Failed bool
	// Err says why the path is not valid.
	Err error
}

// Substitute makes paths valid with their closures, as far as that can be done.
// There is a result for each of wanted, in their order. The error is for what
// concerns no single path: the destination cannot be asked, or ctx ends.
func (e *Engine) Substitute(ctx context.Context, wanted []Wanted, o Options) ([]Result, error) {
	ctx = store.WithAnswerAge(ctx, e.settings.AnswerAge)
	if o.Roots == nil {
		o.Roots = store.TempRootsOf(ctx)
	}
	r, err := e.newRequest(ctx)
	if err != nil {
		return nil, err
	}
	x, err := newRun(ctx, r, o)
	if err != nil {
		return nil, err
	}
	defer x.close()
	for _, w := range wanted {
		x.wanted.Add(w.Path)
		if o.Repair {
			x.again.Add(w.Path)
		}
	}
	if o.Roots != nil {
		// What is valid now has to be it still when somebody hears of it.
		if err := o.Roots.Add(ctx, pathsOf(wanted)); err != nil {
			return nil, err
		}
	}
	// A source that comes in for another may say that a path refers to more than was
	// known; then what that is has to be found out, and the path is tried again.
	for round := 0; round == 0 || len(x.replan) > 0 && round <= len(r.sources); round++ {
		c, err := r.closure(ctx, wanted, &search{again: x.again, may: x.may})
		if err != nil {
			return nil, err
		}
		if err := x.take(ctx, c, wanted); err != nil {
			return nil, err
		}
	}
	results := make([]Result, len(wanted))
	for i, w := range wanted {
		results[i] = x.result(w.Path)
	}
	return results, nil
}

// Repair fetches the object of a path anew that is valid, from a source that has it with
// the contents of info, which need no signature then. An error that is no
// [store.ErrInconclusive] says that no source has it.
func (e *Engine) Repair(ctx context.Context, info *store.PathInfo) error {
	ctx = store.WithAnswerAge(ctx, e.settings.AnswerAge)
	r, err := e.newRequest(ctx)
	if err != nil {
		return err
	}
	x, err := newRun(ctx, r, Options{Repair: true})
	if err != nil {
		return err
	}
	defer x.close()
	var failed []error
	for _, c := range r.closed {
		failed = append(failed, store.Inconclusive(fmt.Errorf("'%s' could not be asked", c.URI))) // why was told
	}
	var offers []store.Offer
	for _, a := range r.sources {
		f, err := x.sameContents(ctx, a, info)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		offers = append(offers, x.offer(f))
	}
	if len(offers) == 0 {
		return inOne(errors.New("no substituter has it"), failed)
	}
	err = x.importAll(ctx, []store.Import{{Path: info.Path, Offers: offers}}, nil)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, store.ErrNotValid) && !errors.Is(err, store.ErrMismatch):
		return store.Inconclusive(err)
	}
	return inOne(err, failed)
}

// inOne puts errors into one, in a line.
func inOne(err error, more []error) error {
	for _, m := range more {
		err = fmt.Errorf("%w; %w", err, m)
	}
	return err
}

// sameContents finds a path in a source with contents that are known.
func (x *run) sameContents(ctx context.Context, a *asked, info *store.PathInfo) (*found, error) {
	p, ok := x.nameAt(a, Wanted{Path: info.Path, CA: info.CA})
	if !ok {
		return nil, fmt.Errorf("'%s' has another store directory", a.Name)
	}
	got := x.query(ctx, a, []storepath.Path{p})[0]
	f := got.found
	switch {
	case got.err != nil:
		return nil, store.Inconclusive(got.err)
	case f == nil:
		return nil, fmt.Errorf("'%s' does not have it", a.Name)
	case f.info.NarHash != info.NarHash:
		return nil, fmt.Errorf("'%s' has it with other contents", a.Name)
	}
	size := f.info.NarSize
	f.info = info.Clone()
	f.info.NarSize = size // it follows from the contents
	return f, nil
}
