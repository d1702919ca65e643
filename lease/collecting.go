package lease

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/objstore"
)

// markTerm is for how long a mark says that a collection is at work, unless it is
// renewed.
const markTerm = 10 * time.Minute

// ErrMarkLost is the cause of the end of a collection whose mark could not be
// renewed: consumers would lean on what it deletes.
var ErrMarkLost = errors.New("the mark of the garbage collection could not be renewed")

// mark is an object in collecting/.
type mark struct {
	Version int       `json:"version"`
	Who     string    `json:"who"`
	Started time.Time `json:"started"`
	Expires time.Time `json:"expires"`
}

// Collection is a garbage collection that consumers know of.
type Collection struct {
	p       *Place
	terms   Terms
	name    string
	who     string
	started time.Time
	ctx     context.Context //nolint:containedctx // it is what the collection gives out
	cancel  context.CancelCauseFunc
	marking context.Context //nolint:containedctx // of what renews the mark, which goes on to its end
	giveUp  context.CancelFunc
	wg      sync.WaitGroup
}

// Collect tells consumers that a garbage collection of the lower begins, and
// returns when everybody can know that: then the leases are to be read. Until End,
// nobody begins to lean on what is not leased by then. who says whose collection it
// is.
func (p *Place) Collect(ctx context.Context, who string) (*Collection, error) {
	t, err := p.Terms(ctx)
	if err != nil {
		return nil, err
	}
	c := &Collection{p: p, terms: t, who: who, started: p.now(), name: collectingDir + "/" + rand.Text() + ".json"}
	if _, err := p.running(ctx, t, true); err != nil {
		return nil, err
	}
	until, err := c.mark(ctx)
	if err != nil {
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.marking, c.giveUp = context.WithCancel(context.WithoutCancel(ctx))
	c.wg.Go(func() { c.renew(until) })
	if err := p.settle(ctx, t); err != nil {
		return nil, errors.Join(err, c.End())
	}
	return c, nil
}

// Context ends when the collection must, with the cause [ErrMarkLost].
func (c *Collection) Context() context.Context { return c.ctx }

// settle waits until everybody sees what was written.
func (p *Place) settle(ctx context.Context, t Terms) error {
	if t.Settle == 0 {
		return nil
	}
	activity.Logf(ctx, activity.Info, "waiting %s until all consumers of '%s' can see what was written there", t.Settle, p.name)
	select {
	case <-time.After(t.Settle):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// mark writes the mark, and tells until when it counts.
func (c *Collection) mark(ctx context.Context) (time.Time, error) {
	until := c.p.now().Add(markTerm)
	text, err := json.Marshal(mark{Version: version, Who: c.who, Started: c.started.UTC(), Expires: until.UTC()})
	if err != nil {
		return until, err
	}
	return leaving(ctx, func() (time.Time, error) { return until, c.p.put(ctx, c.name, text, "application/json") })
}

// renew keeps the mark up. When it cannot, the collection ends before consumers
// take it for ended.
func (c *Collection) renew(until time.Time) {
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-time.After(markTerm / 6):
		}
		last := until.Add(-markTerm / 3)
		ctx, stop := context.WithTimeout(c.marking, last.Sub(c.p.now())) // it may hang
		next, err := c.mark(ctx)
		stop()
		switch {
		case err == nil:
			until = next
		case c.ctx.Err() == nil && !c.p.now().Before(last):
			c.cancel(fmt.Errorf("%w: %w", ErrMarkLost, err))
			return
		}
	}
}

// End says that the collection is over, once everybody can see what it has
// deleted. If it was interrupted, the mark stays where that takes time, and is
// passed over when it has expired.
func (c *Collection) End() error {
	interrupted := c.ctx.Err() != nil
	ctx := context.WithoutCancel(c.ctx)
	if !interrupted {
		interrupted = c.p.settle(c.ctx, c.terms) != nil
	}
	if interrupted { // perhaps since the place does not answer
		c.giveUp()
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, silence)
		defer stop()
	}
	c.cancel(nil)
	c.wg.Wait()
	c.giveUp()
	if interrupted && c.terms.Settle > 0 {
		return nil
	}
	crashpoint.Reached("lease: collection over")
	if _, err := leaving(ctx, func() (bool, error) { return true, c.p.objects.Delete(ctx, c.name) }); err != nil {
		return fmt.Errorf("taking the mark '%s' away from '%s': %w", c.name, c.p.name, err)
	}
	return nil
}

// running gives the marks of collections that are at work. With sweep it takes
// away those that count no more.
func (p *Place) running(ctx context.Context, t Terms, sweep bool) ([]mark, error) {
	var all []mark
	for info, err := range p.list(ctx, collectingDir) {
		if err != nil {
			return nil, fmt.Errorf("listing the garbage collections in '%s': %w", p.name, err)
		}
		if !strings.HasSuffix(info.Name, ".json") {
			continue
		}
		text, err := p.get(ctx, info.Name, maxTerms)
		if errors.Is(err, objstore.ErrNotExist) {
			continue
		}
		var m mark
		if err == nil {
			err = json.Unmarshal(text, &m)
		}
		if err != nil {
			return nil, &UnreadableError{Place: p.name, Name: info.Name, Err: err}
		}
		if p.now().Before(m.Expires.Add(t.Skew)) {
			all = append(all, m)
			continue
		}
		if sweep {
			if _, err := leaving(ctx, func() (bool, error) { return true, p.objects.Delete(ctx, info.Name) }); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// poll is how often a consumer looks whether a collection is over.
const poll = 2 * time.Second

// idle waits until no collection is at work.
func (p *Place) idle(ctx context.Context, t Terms) error {
	told := false
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, poll) {
		at, err := p.running(ctx, t, false)
		if err != nil || len(at) == 0 {
			return err
		}
		if !told {
			told = true
			activity.Logf(ctx, activity.Info, "waiting for a garbage collection of the lower store to end (%s, since %s)",
				at[0].Who, at[0].Started.Local().Format(time.DateTime))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
