package builder

import (
	"container/heap"
	"context"
	"fmt"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder/remote"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// building is the goal of building a derivation whose input derivations are
// realised. It is one for all outputs.
type building struct {
	goal
	node *node
	// basic is what is built: outputs of inputs are among its sources.
	basic *derivation.Basic
	// why it cannot be built on this machine, "" if it can.
	why string
	// waiting lasts while it waits for another machine; nil if it does not.
	waiting *activity.Activity
}

// buildItself has an output by building its derivation.
func (r *request) buildItself(o *output) {
	n := o.node
	if n.building == nil {
		n.building = &building{node: n}
		n.building.quiet = true // the output tells
		r.batch.sources = append(r.batch.sources, n.building)
	}
	b := n.building
	r.await([]*goal{&b.goal}, func(ctx context.Context, w *wait) error {
		if w.failed > 0 {
			r.progress.builds.expected--
			r.end(ctx, &o.goal, failed, b.result)
			return nil
		}
		real := b.result.Outputs[o.name]
		if real == nil {
			return fmt.Errorf("output '%s' of derivation '%s' is unexpectedly invalid", o.name, r.Store.Dir().Print(n.path))
		}
		result := *b.result
		result.Outputs = map[string]*store.Realisation{o.name: real}
		o.path, o.real = real.OutPath, real
		r.progress.builds.expected--
		r.succeed(ctx, &o.goal, &result)
		return nil
	})
}

// checkSources looks whether all sources of derivations are there.
func (r *request) checkSources(ctx context.Context, bs []*building) error {
	var all []storepath.Path
	for _, b := range bs {
		all = append(all, b.node.drv.InputSrcs...)
	}
	all = storepath.SortUnique(all)
	if err := r.roots.Add(ctx, all); err != nil {
		return err
	}
	valid, err := r.Store.ValidPaths(ctx, all)
	if err != nil {
		return err
	}
	have := storepath.NewSet(valid...)
	for _, b := range bs {
		var goals []*goal
		for _, p := range b.node.drv.InputSrcs {
			if have.Has(p) {
				continue
			}
			if r.Substituter == nil {
				return fmt.Errorf("dependency '%s' of '%s' does not exist, and substitution is disabled",
					r.Store.Dir().Print(p), r.Store.Dir().Print(b.node.path))
			}
			goals = append(goals, &r.path(p, storepath.ContentAddress{}, false).goal)
		}
		r.await(goals, func(ctx context.Context, w *wait) error {
			if w.failed > 0 {
				r.fail(ctx, &b.goal, store.DependencyFailed, r.cannotBuild(b.node, w.failed))
				return nil
			}
			return r.prepare(ctx, b)
		})
	}
	return nil
}

// prepare gets a derivation ready that has all that it is built from.
func (r *request) prepare(ctx context.Context, b *building) error {
	n := b.node
	basic := n.drv.Basic
	if n.kind == derivation.Deferred {
		return fmt.Errorf("%w: the output paths of derivation '%s' do not follow from it", derivation.ErrInvalid, r.Store.Dir().Print(n.path))
	}
	if len(n.drv.InputDrvs) > 0 {
		basic.InputSrcs = append([]storepath.Path(nil), basic.InputSrcs...)
		for p, want := range n.drv.InputDrvs {
			for _, name := range want.Outputs {
				out, ok := n.inputs.inputPath(derivation.DerivedPath{Path: p}, name)
				if !ok {
					return fmt.Errorf("derivation '%s' requires non-existent output '%s' from input derivation '%s'",
						r.Store.Dir().Print(n.path), name, r.Store.Dir().Print(p))
				}
				basic.InputSrcs = append(basic.InputSrcs, out)
			}
		}
		basic.InputSrcs = storepath.SortUnique(basic.InputSrcs)
	}
	b.basic = &basic
	for _, text := range n.opts.Warnings {
		activity.Warnf(ctx, "%s", text)
	}
	if b.why = r.rejects(n); b.why != "" {
		suits, err := r.suitsElsewhere(b)
		if err != nil {
			return err
		}
		if !suits {
			r.reject(ctx, b)
			return nil
		}
	}
	if r.b.underWay(r.key(b)) {
		r.start(ctx, b, &slot{pool: r.slots}, nil)
	} else {
		heap.Push(&r.ready, b)
	}
	return nil
}

// reject ends the goal of what no machine can build.
func (r *request) reject(ctx context.Context, b *building) {
	r.fail(ctx, &b.goal, store.InputRejected, fmt.Sprintf("Cannot build '%s'.%s", r.Store.Dir().Print(b.node.path), b.why))
}

// readyQueue is what can be built as soon as there is a slot, in the order of
// names, as in Nix: with one job at a time people expect that.
type readyQueue []*building

func (q readyQueue) Len() int           { return len(q) }
func (q readyQueue) Less(i, j int) bool { return byName(q[i].node.path, q[j].node.path) < 0 }
func (q readyQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *readyQueue) Push(b any) { *q = append(*q, b.(*building)) } //nolint:forcetypeassert // nothing else is pushed

// Pop implements heap.Interface.
func (q *readyQueue) Pop() any {
	last := len(*q) - 1
	b := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return b
}

// startBuilding starts what can be started. What another request is building
// already needs no slot.
func (r *request) startBuilding(ctx context.Context) (any bool, err error) {
	var later []*building
	defer func() {
		for _, b := range later {
			heap.Push(&r.ready, b)
		}
	}()
	full := fullPlaces{}
	r.postponed = false
	for len(r.ready) > 0 {
		b := heap.Pop(&r.ready).(*building) //nolint:forcetypeassert // nothing else is pushed
		started, err := r.startSomewhere(ctx, b, full)
		if err != nil {
			return any, err
		}
		if any = any || started; started {
			continue
		}
		later = append(later, b)
		if r.far == nil {
			break // there is no slot for the others either
		}
	}
	return any, nil
}

// startSomewhere starts a build here or on another machine, or ends it if it can be
// built nowhere. It tells whether it did.
func (r *request) startSomewhere(ctx context.Context, b *building, full fullPlaces) (bool, error) {
	s := &slot{pool: r.slots}
	if r.b.underWay(r.key(b)) {
		r.start(ctx, b, s, nil)
		return true, nil
	}
	answer, place, err := r.askElsewhere(ctx, b, full)
	switch {
	case err != nil:
		return false, err
	case answer == remote.Accept:
		r.start(ctx, b, ownSlot(), place)
		return true, nil
	case answer == remote.Postpone:
		return false, nil
	case b.why != "":
		r.reject(ctx, b)
		return true, nil
	case !s.try():
		return false, nil
	}
	r.start(ctx, b, s, nil)
	return true, nil
}

// start begins a build: at place, if there is one, else here.
func (r *request) start(ctx context.Context, b *building, slot *slot, place remote.Place) {
	r.progress.builds.running++
	b.stopWaiting()
	t := r.queue.next()
	r.spawn(ctx, func(ctx context.Context) step {
		var result *store.BuildResult
		var lost, err error
		if place != nil {
			defer place.Release()
			lost = place.Connect(ctx)
		}
		if lost == nil {
			result, err = r.build(ctx, b, slot, t, place)
		}
		t.pass()
		if result != nil && !result.Status.OK() && !r.KeepGoing {
			t.yield(ctx)
		}
		return func(ctx context.Context) error {
			// Only now, so that nothing else begins that a failure is the end of.
			slot.release()
			r.queue.end(t)
			r.progress.builds.running--
			switch {
			case lost != nil && ctx.Err() == nil:
				activity.Errorf(ctx, "%v", lost)
				heap.Push(&r.ready, b) // somebody else may have a place
				return nil
			case lost != nil:
				return lost
			case err != nil:
				return err
			}
			r.built(ctx, b, result)
			return nil
		}
	})
}

// built ends the goal.
func (r *request) built(ctx context.Context, b *building, result *store.BuildResult) {
	b.basic = nil // a large graph is done before it is given back
	if !result.Status.OK() {
		r.progress.builds.failed++
		r.failAs(ctx, &b.goal, result)
		return
	}
	if result.Status == store.Built {
		r.progress.builds.done++
	}
	r.succeed(ctx, &b.goal, result)
}

// build builds a derivation, or waits for another request that does.
func (r *request) build(ctx context.Context, b *building, slot *slot, t *turn, place remote.Place) (*store.BuildResult, error) {
	for {
		result, joined, err := r.b.share(ctx, r.key(b), func(ctx context.Context, s *shared) (*store.BuildResult, error) {
			if err := slot.take(ctx); err != nil {
				return nil, err
			}
			s.told.onBuild(t.pass)
			return r.execute(ctx, b, slot, t, s, place)
		}, r.keep)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !joined || err == nil && !limited(result.Status) {
			return result, err
		}
		// Their limits are not ours, nor is what went wrong with their request.
	}
}

// limited tells that settings of whoever builds were the reason for a failure.
func limited(s store.BuildStatus) bool { return s == store.TimedOut || s == store.LogLimitExceeded }

// keep makes temporary roots of what was built.
func (r *request) keep(ctx context.Context, result *store.BuildResult) error {
	paths := make([]storepath.Path, 0, len(result.Outputs))
	for _, real := range result.Outputs {
		paths = append(paths, real.OutPath)
	}
	return r.roots.Add(ctx, paths)
}

// key is what makes two builds the same.
func (r *request) key(b *building) shareKey {
	k := shareKey{drv: b.node.path, text: b.node.text, mode: b.node.mode}
	if b.node.kind == derivation.Impure {
		k.only = r // each one makes something new
	}
	return k
}
