package local

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
)

// DefaultMinFreeCheckInterval is Nix's "min-free-check-interval".
const DefaultMinFreeCheckInterval = 5 * time.Second

// AutoGC says when garbage is collected without anybody asking. The fields are the
// settings of Nix.
type AutoGC struct {
	// MinFree is how many bytes of the disk must be free while something is added or
	// built ("min-free"); 0: nobody looks.
	MinFree uint64
	// MaxFree is how many are made free when there are fewer ("max-free"); nil: as many
	// as can be.
	MaxFree *uint64
	// CheckInterval is how often it is looked at most ("min-free-check-interval"); nil:
	// DefaultMinFreeCheckInterval.
	CheckInterval *time.Duration
}

func (a *AutoGC) maxFree() uint64 {
	if a.MaxFree == nil {
		return math.MaxUint64
	}
	return *a.MaxFree
}

func (a *AutoGC) interval() time.Duration {
	if a.CheckInterval == nil {
		return DefaultMinFreeCheckInterval
	}
	return *a.CheckInterval
}

// autoGC is what all views of a store share about its automatic collections.
type autoGC struct {
	mu      sync.Mutex
	running chan struct{} // closed at the end of the one that runs; nil: none does
	looked  time.Time     // when somebody last looked
	enough  uint64        // bytes: as long as about so many are free, one more would be for nothing
	stop    context.CancelFunc
	closed  bool

	free func(dir string) (uint64, error) // for tests
}

func newAutoGC() *autoGC { return &autoGC{enough: math.MaxUint64, free: freeSpace} }

// freeSpace is how many bytes of the file system that dir is on an ordinary user may
// still take.
func freeSpace(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("looking how much of the disk is free: statfs '%s': %w", dir, err)
	}
	return st.Bavail * uint64(st.Frsize), nil //nolint:gosec // a size
}

// makeRoom collects garbage if too little of the disk is free. It waits for the
// collection, also for one that runs already; it is for whoever is about to write, and has
// made roots of what that is.
func (s *Store) makeRoom(ctx context.Context) error {
	done, err := s.checkSpace(ctx)
	if err != nil || done == nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// KeepFree sees to it that garbage is collected when too little of the disk is free,
// again and again until stop is called. It waits for none: it is for whoever builds.
func (s *Store) KeepFree(ctx context.Context) (stop func()) {
	if s.opts.AutoGC.MinFree == 0 || s.opts.ReadOnly {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// More often would find that nobody is to look yet.
		tick := time.NewTicker(max(s.opts.AutoGC.interval(), 100*time.Millisecond))
		defer tick.Stop()
		for {
			if _, err := s.checkSpace(ctx); err != nil && ctx.Err() == nil {
				activity.WarnOf(ctx, err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// checkSpace starts a collection if there should be one. done is closed at the end of
// the one that runs, nil if none does.
//
// Source: LocalStore::autoGC in src/libstore/gc.cc of Nix 2.34.
func (s *Store) checkSpace(ctx context.Context) (done <-chan struct{}, err error) {
	a, o := s.auto, &s.opts.AutoGC
	if o.MinFree == 0 || s.opts.ReadOnly {
		return nil, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.running != nil:
		return a.running, nil
	case a.closed, !a.looked.IsZero() && time.Since(a.looked) < o.interval():
		return nil, nil
	}
	free, err := a.free(s.layer.Deletable)
	if err != nil {
		return nil, err
	}
	a.looked = time.Now()
	if free >= o.MinFree || free >= o.maxFree() || float64(free) > float64(a.enough)*0.97 {
		return nil, nil
	}
	// It is for everybody, and goes on when the one who met it does not.
	ctx, a.stop = context.WithCancel(context.WithoutCancel(ctx))
	a.running = make(chan struct{})
	go s.collectForRoom(ctx, o.maxFree()-free)
	return a.running, nil
}

// collectForRoom frees so many bytes, if it can.
func (s *Store) collectForRoom(ctx context.Context, bytes uint64) {
	activity.Logf(ctx, activity.Info, "running auto-GC to free %d bytes", bytes)
	_, err := s.CollectGarbage(ctx, store.GCOptions{Action: store.DeleteDead, MaxFreed: bytes})
	free, statErr := s.auto.free(s.layer.Deletable)
	if err == nil {
		err = statErr
	}
	if err != nil {
		activity.WarnOf(ctx, fmt.Errorf("auto-GC: %w", err))
	}
	a := s.auto
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.enough = free
	}
	a.looked = time.Now()
	a.stop()
	close(a.running)
	a.running = nil
}

// end stops the collection that runs, waits for its end, and lets no other begin.
func (a *autoGC) end() {
	a.mu.Lock()
	a.closed = true
	running := a.running
	if running != nil {
		a.stop()
	}
	a.mu.Unlock()
	if running != nil {
		<-running
	}
}
