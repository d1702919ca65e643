package substitute

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// request is what one request knows of its sources.
type request struct {
	*Engine
	sources []*asked
	closed  []*OpenError // sources that could not be opened
	silent  bool         // nobody is told of objects without signatures
}

// asked is a source in the course of one request.
type asked struct {
	Source

	mu     sync.Mutex
	broken error // why nobody asks it any more
	row    int   // failures in a row
}

func (e *Engine) newRequest(ctx context.Context) (*request, error) {
	sources, closed, err := e.open(ctx)
	if err != nil {
		return nil, err
	}
	r := &request{Engine: e, closed: closed}
	for _, s := range sources {
		r.sources = append(r.sources, &asked{Source: s})
	}
	return r, nil
}

// brokenBy tells why the source is not asked any more.
func (a *asked) brokenBy() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.broken
}

// giveUp asks the source nothing more in this request.
func (a *asked) giveUp(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.broken == nil {
		a.broken = err
	}
}

// found is an object that a source has.
type found struct {
	at     *asked
	theirs storepath.Path  // what the source calls it
	info   *store.PathInfo // in our terms
	size   uint64          // bytes that travel; 0: not known
}

// answer is what sources say of a path: where it is, or why that could not be
// told, or neither.
type answer struct {
	*found
	err   error
	asked bool // at all
}

// find asks for each of wanted the sources that may says, the best first. The
// next ones are asked for what is not found, all of them at once, and the best of
// those counts.
func (r *request) find(ctx context.Context, wanted []Wanted, may func(p storepath.Path, a *asked) bool) ([]answer, error) {
	answers := make([]answer, len(wanted))
	for rest := r.sources; len(rest) > 0; {
		n := 1 // the first alone, as it has most of what there is
		if len(rest) < len(r.sources) {
			n = len(rest)
		}
		replies := make([][]answer, n)
		var all sync.WaitGroup
		for i, a := range rest[:n] {
			all.Go(func() { replies[i] = r.ask(ctx, a, wanted, answers, may) })
		}
		all.Wait()
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		for _, reply := range replies {
			merge(answers, reply)
		}
		rest = rest[n:]
	}
	return answers, nil
}

// merge adds what another source says. Its word that it does not have a path
// makes good for one before it that could not tell, as in Nix.
func merge(answers, reply []answer) {
	for i := range answers {
		if answers[i].found == nil && reply[i].asked {
			answers[i] = reply[i]
		}
	}
}

// ask asks one source for what is not found yet.
func (r *request) ask(ctx context.Context, a *asked, wanted []Wanted, sofar []answer, may func(storepath.Path, *asked) bool) []answer {
	reply := make([]answer, len(wanted))
	var theirs []storepath.Path
	var where []int
	for i, w := range wanted {
		if sofar[i].found != nil || may != nil && !may(w.Path, a) {
			continue
		}
		if p, ok := r.nameAt(a, w); ok {
			theirs, where = append(theirs, p), append(where, i)
		}
	}
	if len(theirs) == 0 {
		return reply
	}
	for n, got := range r.query(ctx, a, theirs) {
		i := where[n]
		if reply[i] = got; got.found != nil {
			reply[i].found = r.adapt(ctx, wanted[i], got.found)
		}
	}
	r.sift(ctx, reply)
	return reply
}

// nameAt is what a source calls a path, and false if it cannot have it.
func (r *request) nameAt(a *asked, w Wanted) (storepath.Path, bool) {
	if a.Store.Dir() == r.dest.Dir() {
		return w.Path, true
	}
	if w.CA.IsZero() {
		return storepath.Path{}, false
	}
	p, err := a.Store.Dir().Make(w.Path.Name(), w.CA, storepath.References{})
	return p, err == nil
}

// query asks one source for a set, in its own terms. What it fails with is told
// once; a source that gives no answer at all is not asked again.
func (r *request) query(ctx context.Context, a *asked, paths []storepath.Path) []answer {
	answers := make([]answer, len(paths))
	if err := a.brokenBy(); err != nil {
		for i := range answers {
			answers[i] = answer{asked: true, err: err}
		}
		return answers
	}
	infos, err := a.Store.PathInfos(ctx, paths)
	if len(infos) != len(paths) {
		err = cmp.Or(err, fmt.Errorf("%d answers to %d questions", len(infos), len(paths)))
		infos = make([]*store.PathInfo, len(paths))
	}
	err = a.named(err)
	silent := 0
	for i, p := range paths {
		answers[i] = answer{asked: true, err: a.errorOf(p, err)}
		if answers[i].err != nil {
			silent++
		} else if infos[i] != nil {
			answers[i].found = &found{at: a, theirs: p, info: infos[i]}
		}
	}
	if err != nil && ctx.Err() == nil {
		activity.WarnOf(ctx, err)
		if silent == len(paths) {
			a.giveUp(err)
		}
	}
	addSizes(ctx, a, answers)
	return answers
}

// named says in an error which source it is of, unless it does so itself.
func (a *asked) named(err error) error {
	if err == nil || strings.Contains(err.Error(), a.Name) {
		return err
	}
	return fmt.Errorf("asking substituter '%s': %w", a.Name, err)
}

// errorOf is what the error for a set means for one path of it.
func (a *asked) errorOf(p storepath.Path, err error) error {
	var partial *store.PartialError
	if errors.As(err, &partial) {
		return a.named(partial.Errs[p])
	}
	return err
}

// addSizes adds what the download takes. It is for people, so they can do without.
func addSizes(ctx context.Context, a *asked, answers []answer) {
	sizer, ok := store.As[store.DownloadSizer](a.Store)
	if !ok {
		return
	}
	var there []*found
	var paths []storepath.Path
	for _, got := range answers {
		if got.found != nil {
			there, paths = append(there, got.found), append(paths, got.theirs)
		}
	}
	// They come with the answers, which are as new as they are to be.
	sizes, err := sizer.DownloadSizes(store.WithAnswerAge(ctx, store.AnswerAge{}), paths)
	if err != nil || len(sizes) != len(there) {
		return
	}
	for i, f := range there {
		f.size = sizes[i]
	}
}

// adapt puts what a source says of a path into our terms; nil, if that is not
// about the path at all, or means nothing here.
func (r *request) adapt(ctx context.Context, w Wanted, f *found) *found {
	if f.info.Path != f.theirs {
		activity.Errorf(ctx, "asked '%s' for '%s' but got '%s'", f.at.Name, r.dest.Dir().Print(f.theirs), f.at.Store.Dir().Print(f.info.Path))
		return nil
	}
	f.info = f.info.Clone()
	f.info.Ultimate, f.info.Registered = false, 0 // that was there
	if f.at.Store.Dir() == r.dest.Dir() {
		return f
	}
	// In another directory, only what refers to nothing is the same object.
	if len(f.info.References) > 0 || !f.info.IsContentAddressed(f.at.Store.Dir()) {
		return nil
	}
	f.info.Path, f.info.Deriver, f.info.Signatures = w.Path, storepath.Path{}, nil
	if !f.info.IsContentAddressed(r.dest.Dir()) {
		return nil
	}
	return f
}

// sift takes out what nobody vouches for. Checking signatures is what takes
// longest in a set that a near source has answered, so all processors do it.
func (r *request) sift(ctx context.Context, reply []answer) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(reply)) {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(reply) {
					return
				}
				if f := reply[i].found; f != nil && !r.trusts(&f.at.Source, f.info) {
					r.tellUnsigned(ctx, f)
					reply[i].found = nil
				}
			}
		})
	}
	all.Wait()
}

func (r *request) tellUnsigned(ctx context.Context, f *found) {
	if !r.silent {
		activity.Warnf(ctx, "ignoring substitute for '%s' from '%s', as it's not signed by any of the keys in 'trusted-public-keys'",
			r.dest.Dir().Print(f.info.Path), f.at.Name)
	}
}

// valid is a set of those paths that the destination has.
func (e *Engine) valid(ctx context.Context, paths []storepath.Path) (storepath.Set, error) {
	v, err := e.dest.ValidPaths(ctx, slices.Clone(paths))
	if err != nil {
		return nil, err
	}
	return storepath.NewSet(v...), nil
}
