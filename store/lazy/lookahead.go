package lazy

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Bounds of what is found out before somebody asks.
const (
	// aheadLookups is how many objects are looked up ahead at once.
	aheadLookups = 16
	// aheadInfos is of how many objects path infos are asked for because one is looked up that refers to them, directly or
	// not.
	aheadInfos = 512
	// aheadFollowed is how many programs and libraries are followed at once.
	aheadFollowed = 32
)

// LookAhead finds out about what the objects refer to that somebody looks up, and fetches what programs need to
// start that somebody reads, until ctx ends: a program looks up its libraries one after the other, and each costs a
// few round trips.
func (o *Objects) LookAhead(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	if !o.s.o.Offline {
		// Before somebody asks for an object: by then there are connections, too. What goes wrong is said when somebody does.
		all.Go(func() { o.s.greet(ctx, func(*origin) bool { return true }) })
	}
	lookups, follows := make(chan struct{}, aheadLookups), make(chan struct{}, aheadFollowed)
	start := func(turn chan struct{}, do func()) {
		select {
		case turn <- struct{}{}:
			all.Go(func() {
				defer func() { <-turn }()
				do()
			})
		case <-ctx.Done():
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case ob := <-o.met:
			start(lookups, func() { o.lookAhead(ctx, ob) })
		case f := <-o.opened:
			var left atomic.Int32
			left.Store(maxFollowed)
			start(follows, func() { o.follow(ctx, f, 0, &left) })
		}
	}
}

// lookAhead finds out about the trees of what an object refers to, and the path infos of all that these
// lead to.
func (o *Objects) lookAhead(ctx context.Context, ob *object) {
	seen := storepath.NewSet(ob.info.Path)
	refs := slices.DeleteFunc(slices.Clone(ob.info.References), func(p storepath.Path) bool { return !seen.Add(p) })
	infos, err := o.s.PathInfos(ctx, refs)
	if err != nil {
		return // whoever needs them is told
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { o.infosAhead(ctx, infos, seen) })
	turn := make(chan struct{}, aheadLookups)
	for _, info := range infos {
		if info == nil || o.numbers.lastOf(info.Path) != 0 || o.s.o.Cache.Has(info.Path) {
			continue
		}
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			o.meetAhead(ctx, info)
		})
	}
}

// infosAhead asks for the path infos of what objects lead to, level by level. They are remembered by who is
// asked.
func (o *Objects) infosAhead(ctx context.Context, level []*store.PathInfo, seen storepath.Set) {
	for len(level) > 0 && len(seen) < aheadInfos {
		var next []storepath.Path
		for _, info := range level {
			if info == nil {
				continue
			}
			for _, r := range info.References {
				if seen.Add(r) {
					next = append(next, r)
				}
			}
		}
		next = next[:min(len(next), aheadInfos)]
		var err error
		if level, err = o.s.PathInfos(ctx, next); err != nil {
			return
		}
	}
}

// meetAhead makes an object known whose tree can be had without its contents; nil if it cannot.
func (o *Objects) meetAhead(ctx context.Context, info *store.PathInfo) *object {
	if number := o.numbers.lastOf(info.Path); number != 0 {
		o.mu.Lock()
		ob := o.loaded[number]
		o.mu.Unlock()
		if ob != nil && !ob.dead.Load() && ob.info.NarHash == info.NarHash {
			return ob
		}
	}
	tree, verified, part := o.treeHere(ctx, info)
	if tree == nil {
		return nil
	}
	ob, err := o.keep(info, tree, verified, part)
	if err != nil {
		o.s.o.Log.Debug("looking ahead: " + err.Error())
		return nil
	}
	return ob
}
