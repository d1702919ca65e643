package builder

import (
	"context"
	"errors"
	"maps"
	"sync"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// errStuck is a bug of ours that would otherwise be a request that never ends.
var errStuck = errors.New("internal error: goals wait for each other")

// request is one request: a graph of goals. All of it belongs to the goroutine
// that runs it, but for what has a lock of its own.
type request struct {
	View
	Options // of the View
	b       *Builder
	roots   store.TempRoots

	nodes   map[nodeKey]*node
	targets map[string]*target
	paths   map[storepath.Path]*pathGoal

	steps []step // what can be done at once
	batch batch  // what is done for many together, after that
	ready readyQueue

	left     int  // top goals that are open
	givenUp  bool // one of them failed, and the others are not worth it any more
	failures []store.BuildStatus

	events  chan event
	wg      sync.WaitGroup
	running int // goroutines of wg
	slots   slots
	queue   turns

	far       farAway // other machines; nil if there are none, or nobody has looked yet
	farOnce   bool
	postponed bool // something waits for another machine to have a place

	infos    infoCache
	good     contents
	progress progress
	acts     []*activity.Activity // that last as long as the request
}

// batch is what waits to be done in one go for as many goals as there are.
type batch struct {
	load        []*target
	check       []*output
	paths       []*pathGoal
	sources     []*building
	substitute  []*pathGoal
	realise     []*output
	realisation []*store.Realisation
}

func (b *Builder) newRequest(v View, roots store.TempRoots) *request {
	return &request{
		View: v, Options: v.Options, b: b, roots: roots,
		nodes: map[nodeKey]*node{}, targets: map[string]*target{}, paths: map[storepath.Path]*pathGoal{},
		events: make(chan event),
		slots:  newSlots(v.Options.MaxJobs),
		infos:  infoCache{known: map[storepath.Path]*store.PathInfo{}},
	}
}

// run works until the top goals are over. Nothing of the request is under way
// any more when it returns.
func (r *request) run(ctx context.Context, tops []*goal) error {
	for _, g := range tops {
		if !g.top {
			g.top = true
			r.left++
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	ctx = r.progress.start(ctx)
	err := r.loop(ctx)
	cancel()
	r.wg.Wait()
	for _, b := range r.ready {
		b.stopWaiting()
	}
	if r.far != nil {
		r.far.Close()
	}
	for _, act := range r.acts {
		act.Stop()
	}
	r.progress.stop()
	return err
}

func (r *request) loop(ctx context.Context) error {
	for r.left > 0 && !r.givenUp {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		next, err := r.next(ctx)
		if err != nil {
			return err
		}
		if next {
			continue
		}
		if r.running == 0 && !r.postponed {
			return errStuck
		}
		r.progress.report(r)
		again, stop := r.pollTimer()
		select {
		case e := <-r.events:
			if e.end {
				r.running--
			}
			r.steps = append(r.steps, e.do)
		case <-r.slots.nudge:
		case <-again:
		case <-ctx.Done():
		}
		stop()
	}
	return nil
}

// next does something, if there is anything to do.
func (r *request) next(ctx context.Context) (bool, error) {
	if len(r.steps) > 0 {
		steps := r.steps
		r.steps = nil
		for _, s := range steps {
			if err := s(ctx); err != nil || r.givenUp {
				return true, err
			}
		}
		return true, nil
	}
	b, did := r.batch, false
	r.batch = batch{}
	for _, do := range []struct {
		many int
		f    func() error
	}{
		{len(b.load), func() error { return r.load(ctx, b.load) }},
		{len(b.check), func() error { return r.check(ctx, b.check) }},
		{len(b.paths), func() error { return r.checkPaths(ctx, b.paths) }},
		{len(b.sources), func() error { return r.checkSources(ctx, b.sources) }},
		{len(b.realisation), func() error { return r.register(ctx, b.realisation) }},
		{len(b.substitute), func() error { r.substitute(ctx, b.substitute); return nil }},
		{len(b.realise), func() error { r.substituteOutputs(ctx, b.realise); return nil }},
	} {
		if do.many == 0 {
			continue
		}
		did = true
		if err := do.f(); err != nil {
			return true, err
		}
	}
	started, err := r.startBuilding(ctx)
	return started || did, err
}

// tellLoop has the goroutine of the request do something, before the goroutine that
// asks for it comes to its end.
func (r *request) tellLoop(ctx context.Context, do step) {
	select {
	case r.events <- event{do: do}:
	case <-ctx.Done():
	}
}

// event is what other goroutines have for that of the request.
type event struct {
	do  step
	end bool // of the goroutine
}

// spawn does something that takes long in another goroutine; what it gives is
// then done by the goroutine of the request.
func (r *request) spawn(ctx context.Context, work func(context.Context) step) {
	r.running++
	r.wg.Go(func() {
		var done step
		if err := caught(func() error { done = work(ctx); return nil }); err != nil {
			done = func(context.Context) error { return err }
		}
		select {
		case r.events <- event{done, true}:
		case <-ctx.Done():
		}
	})
}

// registerLater registers a realisation together with others.
func (r *request) registerLater(real *store.Realisation) {
	r.batch.realisation = append(r.batch.realisation, real)
}

func (r *request) register(ctx context.Context, reals []*store.Realisation) error {
	if len(reals) == 0 {
		return nil
	}
	byID := make(map[store.DrvOutput]*store.Realisation, len(reals))
	for _, real := range reals {
		byID[real.ID] = real
	}
	unique := make([]*store.Realisation, 0, len(byID))
	for real := range maps.Values(byID) {
		unique = append(unique, real)
	}
	return r.Store.RegisterRealisations(ctx, unique)
}

// want gives the goal of a derived path.
func (r *request) want(p derivation.DerivedPath, mode store.BuildMode) *goal {
	if p.IsOpaque() {
		return &r.path(p.Path, storepath.ContentAddress{}, mode == store.BuildRepair).goal
	}
	return &r.target(p, mode).goal
}
