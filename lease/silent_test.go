package lease

import (
	"context"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-nix/strata/activity"
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

// told keeps what is logged.
type told struct {
	mu    sync.Mutex
	lines []string
}

func (l *told) Log(_ activity.Level, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, text)
}

func (l *told) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines
}

func (*told) Start(activity.Event)                                 {}
func (*told) Stop(uint64)                                          {}
func (*told) Result(uint64, activity.ResultType, []activity.Field) {}

// Whoever waits for a place that does not answer is told what for.
func TestSilentPlace(t *testing.T) {
	for takes, want := range map[time.Duration][]string{
		time.Second: nil,
		time.Minute: {"waiting for 'far away' to answer (strata-leases.json)..."},
	} {
		synctest.Test(t, func(t *testing.T) {
			memory := objstore.NewMemory()
			initPlace(t, NewPlace(memory, "here"), Terms{})
			var l told
			if _, err := NewPlace(slow{memory, takes}, "far away").Terms(activity.With(t.Context(), &l)); err != nil {
				t.Fatal(err)
			}
			if got := l.all(); !slices.Equal(got, want) {
				t.Errorf("after %s: %q", takes, got)
			}
		})
	}
}
