package substitute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// run is one request that takes what it finds.
type run struct {
	*request
	importer store.Importer
	destName string
	opts     Options
	ctx      context.Context //nolint:containedctx // of the request, for those who fetch what it waits for
	tally    *tally
	hide     func()
	again    storepath.Set // what is wanted although it is valid
	wanted   storepath.Set // of whose results nobody has heard early

	mu      sync.Mutex
	tried   map[storepath.Path]map[*asked]error // which sources have failed, and how
	at      map[storepath.Path]*found           // the offer that counts
	replan  storepath.Set                       // paths of which another source says something else
	outcome map[storepath.Path]Result           // for the one goroutine that hears of outcomes
}

func newRun(ctx context.Context, r *request, o Options) (*run, error) {
	importer, err := store.Need[store.Importer](r.dest, "substitute")
	if err != nil {
		return nil, err
	}
	x := &run{
		request: r, importer: importer, opts: o, ctx: ctx, destName: r.dest.URI(), again: storepath.Set{}, wanted: storepath.Set{},
		tried: map[storepath.Path]map[*asked]error{}, at: map[storepath.Path]*found{}, outcome: map[storepath.Path]Result{},
	}
	if ref, err := store.ParseReference(x.destName); err == nil {
		x.destName = nameOf(ref)
	}
	return x, nil
}

func (x *run) close() {
	if x.hide != nil {
		x.hide()
	}
}

// may tells whether a source has not failed yet to give a path.
func (x *run) may(p storepath.Path, a *asked) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, tried := x.tried[p][a]
	return !tried
}

// take imports what can be had of a closure, and notes what becomes of all of it.
func (x *run) take(ctx context.Context, c *closure, wanted []Wanted) error {
	x.replan = storepath.Set{}
	for _, w := range wanted {
		_, missing := c.missing[w.Path]
		if c.found[w.Path] == nil && !missing && x.outcome[w.Path].Status != store.Substituted {
			x.outcome[w.Path] = Result{Status: store.AlreadyValid}
			x.tellEarly(w.Path)
		}
	}
	for p, err := range c.missing {
		if len(x.tried[p]) == 0 {
			x.outcome[p] = x.unobtainable(p, err)
			if err == nil {
				x.tellEarly(p)
			}
		} // else it is known how its sources failed
	}
	var imports []store.Import
	for _, f := range c.order {
		if on, failed, ok := x.obtainable(f); !ok {
			x.outcome[f.info.Path] = x.dependent(f.info.Path, on, failed)
			continue
		}
		delete(x.outcome, f.info.Path)
		x.at[f.info.Path] = f
		imports = append(imports, store.Import{Path: f.info.Path, Offers: []store.Offer{x.offer(f)}, More: x.more(f.info.Path)})
	}
	if len(imports) == 0 {
		return nil
	}
	err := x.importAll(ctx, imports, func(i int, from *store.Offer, err error) { x.note(imports[i].Path, from, err) })
	if ended := context.Cause(ctx); ended != nil {
		return ended
	}
	for _, i := range imports {
		if _, known := x.outcome[i.Path]; !known {
			return err // of the destination
		}
	}
	for _, i := range imports {
		x.spread(c.found[i.Path])
	}
	return nil
}

// importAll has the destination take the imports. done, if not nil, hears of each
// outcome.
func (x *run) importAll(ctx context.Context, imports []store.Import, done func(i int, from *store.Offer, err error)) error {
	x.expect(ctx, imports)
	paths := make([]storepath.Path, len(imports))
	for i, m := range imports {
		paths[i] = m.Path
	}
	x.board.watch(x, paths)
	defer x.board.unwatch(x, paths)
	return x.importer.Import(ctx, imports, store.ImportOptions{
		AddOptions: store.AddOptions{Repair: x.opts.Repair, Roots: x.opts.Roots},
		Jobs:       x.jobs(),
		Done: func(i int, from *store.Offer, err error) {
			x.tally.end(imports[i].Path, err == nil)
			if done != nil {
				done(i, from, err)
			}
		},
	})
}

func (x *run) jobs() int {
	if x.settings.Jobs > 0 {
		return x.settings.Jobs
	}
	return DefaultJobs
}

// offer is what the destination gets to see of what was found. Its signature has
// been looked at.
func (x *run) offer(f *found) store.Offer {
	return store.Offer{Info: f.info, From: f.at.Name, Trusted: true, DownloadSize: f.size, Open: func(ctx context.Context) (io.ReadCloser, error) {
		if err := f.at.brokenBy(); err != nil {
			return nil, err
		}
		ctx, t := x.board.begin(ctx, x, f)
		nar, err := store.OpenNar(ctx, f.at.Store, f.theirs)
		if err != nil {
			t.end()
			return nil, fmt.Errorf("getting path '%s' from '%s': %w", f.at.Store.Dir().Print(f.theirs), f.at.Name, err)
		}
		return &observed{nar, t}, nil
	}}
}

// observed is a NAR whose bytes are counted.
type observed struct {
	io.ReadCloser
	transfer *transfer
}

func (o *observed) Read(p []byte) (int, error) {
	n, err := o.ReadCloser.Read(p)
	if n > 0 {
		o.transfer.add(n)
	}
	return n, err
}

func (o *observed) Close() error {
	o.transfer.end()
	return o.ReadCloser.Close()
}

// more gives what other sources offer of a path once one has failed.
func (x *run) more(p storepath.Path) func(context.Context, error) []store.Offer {
	return func(ctx context.Context, err error) []store.Offer {
		if ctx.Err() != nil {
			return nil
		}
		x.mu.Lock()
		f := x.at[p]
		var unknown *store.InvalidPathError
		if errors.As(err, &unknown) && unknown.By != "" {
			x.replan.Add(p) // it refers to what nobody has looked for
			x.mu.Unlock()
			return nil
		}
		if x.tried[p] == nil {
			x.tried[p] = map[*asked]error{}
		}
		x.tried[p][f.at] = err
		x.mu.Unlock()
		f.at.failed(ctx, err)
		return x.nextOffer(ctx, Wanted{Path: p, CA: f.info.CA})
	}
}

// nextOffer finds the best source of a path that has not failed yet.
func (x *run) nextOffer(ctx context.Context, w Wanted) []store.Offer {
	answers, err := x.find(ctx, []Wanted{w}, x.may)
	if err != nil || answers[0].found == nil {
		return nil
	}
	x.mu.Lock()
	x.at[w.Path] = answers[0].found
	x.mu.Unlock()
	offers := []store.Offer{x.offer(answers[0].found)}
	x.tally.expect([]store.Import{{Path: w.Path, Offers: offers}})
	return offers
}

// maxFailures in a row is what makes a source count as broken.
const maxFailures = 3

// failed notes that a source did not give what it has.
func (a *asked) failed(ctx context.Context, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.broken != nil && errors.Is(err, a.broken):
		return // that has been told
	case errors.Is(err, store.ErrNotValid):
		// It has been deleted there, which is nobody's fault.
		activity.WarnOf(ctx, err)
		return
	}
	activity.Errorf(ctx, "%v", err)
	if a.row++; a.row >= maxFailures && a.broken == nil {
		a.broken = fmt.Errorf("substituter '%s' has failed %d times in a row", a.Name, a.row)
		activity.Warnf(ctx, "%v, and is not asked any more", a.broken)
	}
}

// worked notes that a source gave what it has.
func (a *asked) worked() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.row = 0
}
