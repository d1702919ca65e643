package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/objstore"
)

// readers is how many leases are read at once: each may be a request to an object
// storage.
const readers = 16

// Entry is a lease of a place, or why there is none to be had.
type Entry struct {
	Name  string // of the object
	Lease *Lease // nil with Err
	State State  // "" with Err
	Err   error  // an [*UnreadableError]
}

// List reads all leases of a place, lapsed ones too, sorted by name. An error is
// about the place; that of a lease stands with it.
func (p *Place) List(ctx context.Context) (Terms, []Entry, error) {
	var mu sync.Mutex
	var all []Entry
	t, err := p.each(ctx, func(e Entry) error {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, e)
		return nil
	})
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return t, all, err
}

// each gives all leases to f, several at once. An error of f ends it.
func (p *Place) each(ctx context.Context, f func(Entry) error) (Terms, error) {
	t, err := p.Terms(ctx)
	if err != nil {
		return t, err
	}
	g, reading := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for info, err := range p.list(reading, leasesDir) {
		if reading.Err() != nil {
			break
		}
		if err != nil {
			_ = g.Wait() // the cause is that the list has failed
			return t, fmt.Errorf("listing the leases in '%s': %w", p.name, err)
		}
		if !strings.HasSuffix(info.Name, leaseSuffix) {
			continue
		}
		g.Go(func() error {
			e, there := p.entry(reading, t, info.Name)
			if !there {
				return nil
			}
			return f(e)
		})
	}
	err = g.Wait()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return t, err
}

// entry reads one lease. It is not there any more if it was dropped meanwhile.
func (p *Place) entry(ctx context.Context, t Terms, name string) (e Entry, there bool) {
	e.Name = name
	for try := 0; ; try++ {
		e.Lease, e.Err = p.read(ctx, name)
		// On NFS a file that is replaced while it is read is gone for who reads it.
		if !errors.Is(e.Err, unix.ESTALE) || try == 3 {
			break
		}
	}
	if errors.Is(e.Err, objstore.ErrNotExist) {
		return e, false
	}
	if e.Err == nil && e.Lease.StoreDir != t.StoreDir {
		e.Err = &UnreadableError{Place: p.name, Name: name, Err: fmt.Errorf(
			"it is about the store directory '%s', and the place about '%s'", e.Lease.StoreDir, t.StoreDir)}
	}
	if e.Err != nil {
		e.Lease = nil
		return e, true
	}
	e.State = e.Lease.State(t, p.now())
	return e, true
}

// DropLapsed takes away the leases that do not count any more, and names their
// consumers.
func (p *Place) DropLapsed(ctx context.Context) (dropped []string, err error) {
	_, all, err := p.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if e.State != Lapsed {
			continue
		}
		// It may have been renewed by a consumer that has just come back.
		if now, there := p.entry(ctx, Terms{StoreDir: e.Lease.StoreDir}, e.Name); !there || now.Err != nil || now.Lease.Sequence != e.Lease.Sequence {
			continue
		}
		if err := p.objects.Delete(ctx, e.Name); err != nil {
			return dropped, fmt.Errorf("dropping lease '%s' in '%s': %w", e.Name, p.name, err)
		}
		dropped = append(dropped, e.Lease.Consumer)
	}
	return dropped, nil
}

// Remaining is for how long a lease counts yet, negative if it does not.
func (l *Lease) Remaining(t Terms, now time.Time) time.Duration {
	return l.Expires.Add(t.Grace + t.Skew).Sub(now)
}
