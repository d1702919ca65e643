package lease

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/storepath"
)

// KeeperOptions say whose lease is kept, and how the keeper asks about it.
type KeeperOptions struct {
	// Consumer is the name of the lease, Holder who that is in words.
	Consumer, Holder string
	// StoreDir of the lower; it must be that of the terms.
	StoreDir storepath.Dir
	// Uses gives paths of the lower whose closures are everything that the consumer
	// uses, and how many paths those closures have.
	Uses func(ctx context.Context) (roots []storepath.Path, uses uint64, err error)
	// Valid gives those that are valid in the lower.
	Valid func(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error)
}

// Keeper keeps the lease of one consumer. Any number of goroutines may use it.
type Keeper struct {
	p *Place
	o KeeperOptions

	publishing sync.Mutex // held while something is published

	mu    sync.Mutex
	base  Hashes    // what was used when that was last found out
	known bool      // that was done
	since time.Time // when base was taken over
	uses  uint64
	fresh map[Hash]time.Time // leaned on since, and when
	asked uint64             // grows when fresh does
	done  uint64             // of asked, what is published
	terms Terms              // when it was published last
	last  *Lease
	err   error // of the last attempt
}

// NewKeeper makes a keeper. Nothing is published before Renew or Lean.
func NewKeeper(p *Place, o KeeperOptions) (*Keeper, error) {
	if err := CheckConsumer(o.Consumer); err != nil {
		return nil, err
	}
	return &Keeper{p: p, o: o, fresh: map[Hash]time.Time{}}, nil
}

// hold is for how long a path stays leased that was leaned on and that Uses does
// not give: until it does, or whoever wanted it has given up.
const hold = time.Hour

// Renew publishes what the consumer uses now.
func (k *Keeper) Renew(ctx context.Context) (*Lease, error) {
	began := k.p.now()
	roots, uses, err := k.o.Uses(ctx)
	if err != nil {
		return nil, k.note(nil, fmt.Errorf("lease in '%s': finding what is used: %w", k.p.name, err))
	}
	return k.RenewWith(ctx, began, roots, uses)
}

// RenewWith is Renew for a caller that has found out what is used, and began to when
// it says. Of several that found that out at the same time, each only adds to what
// the first one published: which of them looked last, nobody knows.
func (k *Keeper) RenewWith(ctx context.Context, began time.Time, roots []storepath.Path, uses uint64) (*Lease, error) {
	k.publishing.Lock()
	defer k.publishing.Unlock()
	k.mu.Lock()
	base := HashesOf(roots)
	if began.Before(k.since) {
		// It may have looked before the last one did, which has found, and taken out of
		// fresh, what it has not.
		base, uses = base.union(k.base), max(uses, k.uses)
	}
	k.base, k.uses, k.known, k.since = base, uses, true, k.p.now()
	maps.DeleteFunc(k.fresh, func(h Hash, at time.Time) bool {
		return at.Before(began.Add(-hold)) || at.Before(began) && k.base.Has(h)
	})
	k.mu.Unlock()
	return k.publish(ctx)
}

// Lean makes sure that paths are leased and in the lower before somebody leans on
// them. When a garbage collection of the lower is at work it waits for its end.
// [ErrGone] says that the lower has lost one of them.
func (k *Keeper) Lean(ctx context.Context, paths []storepath.Path) error {
	if len(paths) == 0 {
		return nil
	}
	if err := k.lease(ctx, paths); err != nil {
		return err
	}
	// A collection that begins from now on reads the lease. One that was at work
	// before may have missed it; what it has deleted is not valid at its end.
	k.mu.Lock()
	t := k.terms
	k.mu.Unlock()
	if err := k.p.idle(ctx, t); err != nil {
		return fmt.Errorf("leaning on the lower store: %w", err)
	}
	valid, err := k.o.Valid(ctx, paths)
	if err != nil {
		return fmt.Errorf("leaning on the lower store: %w", err)
	}
	if lost := storepath.NewSet(valid...).Missing(paths); len(lost) > 0 {
		return fmt.Errorf("path '%s' %w", k.o.StoreDir.Print(lost[0]), ErrGone)
	}
	return nil
}

// Resume takes what is leased already for what is used, until that is found out: what is
// published next adds to it. It is for a consumer that cannot tell yet what it uses.
func (k *Keeper) Resume(ctx context.Context) error {
	was, err := k.p.Read(ctx, k.o.Consumer)
	switch {
	case errors.Is(err, objstore.ErrNotExist):
		was = &Lease{}
	case errors.Is(err, ErrFormat): // whatever it was, it keeps nothing
		was = &Lease{}
	case err != nil:
		return fmt.Errorf("lease in '%s': finding what is leased: %w", k.p.name, err)
	case was.Holder != k.o.Holder: // publishing decides whether that matters
		was = &Lease{}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.known {
		k.base, k.uses, k.known = was.Roots, was.Uses, true
	}
	return nil
}

// lease publishes paths. Those of several callers go out together.
func (k *Keeper) lease(ctx context.Context, paths []storepath.Path) error {
	k.mu.Lock()
	for _, p := range paths {
		k.fresh[HashOf(p)] = k.p.now()
	}
	k.asked++
	mine, known := k.asked, k.known
	k.mu.Unlock()
	if !known {
		_, err := k.Renew(ctx)
		return err
	}
	k.publishing.Lock()
	defer k.publishing.Unlock()
	k.mu.Lock()
	published := k.done >= mine
	k.mu.Unlock()
	if published {
		return nil
	}
	_, err := k.publish(ctx)
	return err
}

// publish puts the lease in its place.
func (k *Keeper) publish(ctx context.Context) (*Lease, error) {
	k.mu.Lock()
	asked := k.asked
	roots := slices.Concat(k.base, slices.Collect(maps.Keys(k.fresh)))
	l := &Lease{Consumer: k.o.Consumer, Holder: k.o.Holder, StoreDir: k.o.StoreDir, Uses: k.uses + uint64(len(k.fresh))}
	if k.last != nil {
		l.Sequence = k.last.Sequence
	}
	k.mu.Unlock()
	slices.SortFunc(roots, compareHashes)
	l.Roots = slices.Compact(roots)
	if err := k.put(ctx, l); err != nil {
		return nil, k.note(nil, err)
	}
	k.mu.Lock()
	k.done = max(k.done, asked)
	k.mu.Unlock()
	return l, k.note(l, nil)
}

func (k *Keeper) put(ctx context.Context, l *Lease) error {
	var was *Lease
	asked := make(chan error, 1)
	go func() { // each may take as long as a network does
		var err error
		was, err = k.p.header(ctx, l.Consumer)
		asked <- err
	}()
	t, termsErr := k.p.Terms(ctx)
	err := <-asked
	if termsErr != nil {
		return termsErr
	}
	if t.StoreDir != l.StoreDir {
		return fmt.Errorf("'%s' has the leases of stores with the store directory '%s', and not '%s'", k.p.name, t.StoreDir, l.StoreDir)
	}
	switch {
	case errors.Is(err, ErrFormat): // whatever it was, it keeps nothing
		activity.Warnf(ctx, "replacing lease '%s' in '%s': %v", l.Consumer, k.p.name, err)
	case err != nil:
		return &UnreadableError{Place: k.p.name, Name: leaseName(l.Consumer), Err: err}
	case was == nil:
	case was.Holder != l.Holder && was.State(t, k.p.now()).Counts():
		return &ConflictError{Place: k.p.name, Consumer: l.Consumer, Holder: was.Holder}
	default:
		l.Sequence = max(l.Sequence, was.Sequence)
	}
	l.Sequence++
	l.Published = k.p.now().UTC().Truncate(time.Millisecond)
	l.Expires = l.Published.Add(t.Term)
	data, err := l.Encode()
	if err != nil {
		return err
	}
	if err := k.p.put(ctx, leaseName(l.Consumer), data, "application/octet-stream"); err != nil {
		return err
	}
	k.mu.Lock()
	k.terms = t
	k.mu.Unlock()
	return nil
}

func (k *Keeper) note(l *Lease, err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err = err; err == nil {
		k.last = l
	}
	return err
}

// Last is what was published last, nil if nothing was, and the error of the last
// attempt.
func (k *Keeper) Last() (*Lease, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.last, k.err
}

// Interval is how often a lease is to be renewed.
func (k *Keeper) Interval(ctx context.Context) (time.Duration, error) {
	t, err := k.p.Terms(ctx)
	return t.Term / 3, err
}
