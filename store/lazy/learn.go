package lazy

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// recorder notes the order in which files are first read. When nothing new was read for a while, a
// start-up is over, and becomes part of profiles.
type recorder struct {
	mu    sync.Mutex
	seen  map[uint64]bool // nodes, by the number that the kernel knows them by
	begun map[storepath.Path]bool
	order []Want
	last  time.Time
	news  chan struct{}
}

// learnQuiet is how long nothing new must have been read.
const learnQuiet = 5 * time.Second

// maxSeen bounds what is remembered.
const maxSeen = 1 << 18

func newRecorder() *recorder {
	return &recorder{seen: map[uint64]bool{}, begun: map[storepath.Path]bool{}, news: make(chan struct{}, 1)}
}

// note notes that a file is read, and tells whether its object is read for the first time.
func (r *recorder) note(ob *object, node uint32) (begins bool) {
	id := fusefs.NodeID(ob.number, node)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[id] || len(r.seen) >= maxSeen {
		return false
	}
	r.seen[id] = true
	if len(r.order) < MaxWants {
		r.order = append(r.order, Want{ob.info.Path, ob.tree.Path(node)})
	}
	r.last = time.Now()
	begins = !r.begun[ob.info.Path]
	r.begun[ob.info.Path] = true
	select {
	case r.news <- struct{}{}:
	default:
	}
	return begins
}

// take takes what was noted, if the last of it is old enough.
func (r *recorder) take(quiet time.Duration) []Want {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.order) == 0 || time.Since(r.last) < quiet {
		return nil
	}
	order := r.order
	r.order = nil
	return order
}

// Learn fetches ahead what the profiles say of the objects that are read, and makes profiles of what
// is read, until ctx ends.
func (o *Objects) Learn(ctx context.Context) {
	var ahead sync.WaitGroup
	defer ahead.Wait()
	tick := time.NewTicker(learnQuiet)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			o.learn(context.WithoutCancel(ctx), 0)
			return
		case root := <-o.starts:
			ahead.Go(func() { o.startAhead(ctx, root) })
		case <-tick.C:
			o.learn(ctx, learnQuiet)
		}
	}
}

// learnTimeout is how long it may take to find out what belongs together.
const learnTimeout = 30 * time.Second

// learn makes profiles of what was read.
func (o *Objects) learn(ctx context.Context, quiet time.Duration) {
	order := o.recorder.take(quiet)
	if len(order) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, learnTimeout)
	defer cancel()
	for _, p := range o.s.profilesOf(ctx, order) {
		if err := o.s.o.Cache.AddProfile(ctx, p); err != nil {
			o.s.o.Log.Debug(fmt.Sprintf("what was read is not remembered: %v", err))
		}
	}
}

// maxRoots bounds the profiles that one recording is part of.
const maxRoots = 256

// profilesOf divides a recording: the first object that was read, and each later one that none of those
// before refers to, directly or not, is a root; what is read of what a root refers to belongs to its profile.
func (s *Store) profilesOf(ctx context.Context, order []Want) (all []*Profile) {
	var closures []storepath.Set
	for _, w := range order {
		known := false
		for i, in := range closures {
			if in.Has(w.Path) {
				known = true
				all[i].Wants = append(all[i].Wants, w)
			}
		}
		if known || len(all) == maxRoots {
			continue
		}
		in := storepath.NewSet(w.Path)
		// An object of which that cannot be found out is alone.
		if infos, err := store.Closure(ctx, s, []storepath.Path{w.Path}); err == nil {
			for _, info := range infos {
				in.Add(info.Path)
			}
		}
		closures = append(closures, in)
		all = append(all, &Profile{Root: w.Path, Wants: []Want{w}})
	}
	return all
}
