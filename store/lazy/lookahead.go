package lazy

import (
	"context"
	"slices"
	"sync"

	"github.com/strata-nix/strata/storepath"
)

// aheadLookups is how many objects are looked up ahead at once.
const aheadLookups = 8

// LookAhead finds out about what the objects refer to that somebody looks up, until ctx ends: a program
// looks up its libraries one after the other, and each costs a round trip or two. Nothing but
// path infos and file indexes is fetched.
func (o *Objects) LookAhead(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case ob := <-o.met:
			o.lookAhead(ctx, ob)
		}
	}
}

func (o *Objects) lookAhead(ctx context.Context, ob *object) {
	refs := slices.DeleteFunc(slices.Clone(ob.info.References), func(p storepath.Path) bool {
		return p == ob.info.Path || o.numbers.lastOf(p) != 0
	})
	infos, err := o.s.PathInfos(ctx, refs)
	if err != nil {
		return // whoever needs them is told
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	turn := make(chan struct{}, aheadLookups)
	for _, info := range infos {
		if info == nil || o.s.o.Cache.Has(info.Path) {
			continue
		}
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			part := o.partialOf(ctx, info)
			if part == nil {
				return // its tree may be had only with the whole
			}
			if _, err := o.keep(info, part.x.Contents.Tree(), true, part); err != nil {
				o.s.o.Log.Debug("looking ahead: " + err.Error())
			}
		})
	}
}
