package lease

import (
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/objstore"
)

// slow is a storage that takes its time.
type slow struct {
	objstore.Store
	takes time.Duration
}

func (s slow) Get(ctx context.Context, name string, o objstore.GetOptions) (io.ReadCloser, objstore.Info, error) {
	time.Sleep(s.takes)
	return s.Store.Get(ctx, name, o)
}

// Whoever waits for a place that does not answer is told what for.
func TestSilentPlace(t *testing.T) {
	for takes, want := range map[time.Duration][]string{
		time.Second: nil,
		time.Minute: {"waiting for 'far away' to answer (strata-leases.json)..."},
	} {
		synctest.Test(t, func(t *testing.T) {
			memory := objstore.NewMemory()
			initPlace(t, NewPlace(memory, "here"), Terms{})
			var l testenv.Lines
			if _, err := NewPlace(slow{memory, takes}, "far away").Terms(activity.With(t.Context(), &l)); err != nil {
				t.Fatal(err)
			}
			if got := l.All(); !slices.Equal(got, want) {
				t.Errorf("after %s: %q", takes, got)
			}
		})
	}
}

// hanging is a storage that does not answer from some moment on, whatever its context says, as a
// file system whose server is gone.
type hanging struct {
	objstore.Store
	hangs atomic.Bool
	over  chan struct{}
}

func (h *hanging) wait() {
	if h.hangs.Load() {
		<-h.over
	}
}

func (h *hanging) Get(ctx context.Context, name string, o objstore.GetOptions) (io.ReadCloser, objstore.Info, error) {
	h.wait()
	return h.Store.Get(ctx, name, o)
}

func (h *hanging) Put(ctx context.Context, name string, body io.Reader, o objstore.PutOptions) error {
	h.wait()
	return h.Store.Put(ctx, name, body, o)
}

func (h *hanging) Delete(ctx context.Context, name string) error {
	h.wait()
	return h.Store.Delete(ctx, name)
}

func (h *hanging) List(ctx context.Context, dir string) iter.Seq2[objstore.Info, error] {
	h.wait()
	return h.Store.List(ctx, dir)
}

// inFrontOf gives a place of a storage that may begin to hang, in a bubble of its own time.
func inFrontOf(t *testing.T, do func(t *testing.T, p *Place, h *hanging)) {
	synctest.Test(t, func(t *testing.T) {
		h := &hanging{Store: objstore.NewMemory(), over: make(chan struct{})}
		defer close(h.over)
		p := NewPlace(h, "far away")
		initPlace(t, p, Terms{})
		do(t, p, h)
	})
}

// Who interrupts what waits for a place that does not answer need not wait for that.
func TestInterruptedAtASilentPlace(t *testing.T) {
	for name, ask := range map[string]func(ctx context.Context, p *Place) error{
		"terms": func(ctx context.Context, p *Place) error { _, err := p.Terms(ctx); return err },
		"list":  func(ctx context.Context, p *Place) error { _, err := p.each(ctx, nil); return err },
		"names": func(ctx context.Context, p *Place) error {
			for _, err := range p.list(ctx, leasesDir) {
				return err
			}
			return nil
		},
		"lease":      func(ctx context.Context, p *Place) error { _, err := p.Read(ctx, "someone"); return err },
		"header":     func(ctx context.Context, p *Place) error { _, err := p.header(ctx, "someone"); return err },
		"collection": func(ctx context.Context, p *Place) error { _, err := p.Collect(ctx, "a test"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			inFrontOf(t, func(t *testing.T, p *Place, h *hanging) {
				h.hangs.Store(true)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := ask(ctx, p); !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			})
		})
	}
}

// A collection whose place hangs ends before consumers take it for ended, and does not wait for it
// then.
func TestCollectionAtASilentPlace(t *testing.T) {
	inFrontOf(t, func(t *testing.T, p *Place, h *hanging) {
		began := time.Now()
		c, err := p.Collect(t.Context(), "a test")
		if err != nil {
			t.Fatal(err)
		}
		h.hangs.Store(true)
		<-c.Context().Done()
		if took := time.Since(began); took >= markTerm || !errors.Is(context.Cause(c.Context()), ErrMarkLost) {
			t.Errorf("after %s: %v", took, context.Cause(c.Context()))
		}
		began = time.Now()
		if err := c.End(); time.Since(began) > 2*silence {
			t.Errorf("ended after %s: %v", time.Since(began), err)
		}
	})
	// One that is interrupted while it renews its mark ends at once, too.
	inFrontOf(t, func(t *testing.T, p *Place, h *hanging) {
		ctx, cancel := context.WithCancel(t.Context())
		c, err := p.Collect(ctx, "a test")
		if err != nil {
			t.Fatal(err)
		}
		h.hangs.Store(true)
		time.Sleep(markTerm/6 + time.Second)
		cancel()
		began := time.Now()
		if err := c.End(); time.Since(began) > 2*silence {
			t.Errorf("ended after %s: %v", time.Since(began), err)
		}
	})
}
