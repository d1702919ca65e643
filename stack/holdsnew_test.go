package stack

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/lease"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// leased tells whether a consumer's lease has a path.
func leased(t *testing.T, place, consumer string, o storetest.Object) bool {
	t.Helper()
	p, err := lease.OpenDirectory(place)
	if err != nil {
		t.Fatal(err)
	}
	l, err := p.Read(t.Context(), consumer)
	return err == nil && l.Roots.Has(lease.HashOf(o.Path()))
}

// At no moment of a pivot is something that the upper leans on unknown to the owner of the
// lower that has it: not to that of a new lower once the pivot is committed, nor to that of a lower
// which is old and new.
func TestOwnersOfNewLowersAreToldBefore(t *testing.T) {
	for _, online := range []bool{true, false} {
		t.Run(map[bool]string{true: "up", false: "down"}[online], func(t *testing.T) {
			inEach(t, func(t *testing.T, w *world) { ownersAreToldBefore(t, w, online) })
		})
	}
}

func ownersAreToldBefore(t *testing.T, w *world, online bool) {
	r := newRelease(t, w)
	place, leases := w.optIn(t, r.next), w.path("leases")
	p, err := lease.OpenDirectory(leases)
	if err == nil {
		err = p.Init(t.Context(), lease.Terms{StoreDir: storepath.DefaultDir})
	}
	if err != nil {
		t.Fatal(err)
	}
	c := w.config(t, r.old)
	c.Consumer, c.Lowers[0].Leases = "me", leases
	s := w.up(t, c)
	r.fill(t, s)
	// Rows of both lowers, so that the second lower is used after the pivot, too.
	if !leased(t, leases, "me", r.tool) {
		t.Fatal("the old lower is not leased")
	}
	next := []Lower{lowerOf(t, r.next), c.Lowers[0]}
	if !online {
		w.takeDown(t, s)
	}

	var mu sync.Mutex
	committed, seen := false, 0
	stop := crashpoint.Watch(func(name string) {
		mu.Lock()
		defer mu.Unlock()
		if committed = committed || name == "pivot: committed"; committed {
			seen++
			if _, err := os.Readlink(filepath.Join(place, "me", r.dup.Path().Base())); err != nil {
				t.Errorf("%s: the new lower does not know that it is used: %v", name, err)
			}
		}
		if !strings.HasPrefix(name, "lease:") && !leased(t, leases, "me", r.tool) {
			t.Errorf("%s: the lower that stays does not know any more that it is used", name)
		}
	})
	defer stop()
	o := PivotOptions{Lowers: next}
	if online {
		_, err = s.Pivot(t.Context(), o)
	} else {
		_, err = MoveUpper(t.Context(), resolved(t, c), parts(), o)
	}
	stop()
	mu.Lock() // the background may be at a mark still
	moments := seen
	mu.Unlock()
	if err != nil || moments == 0 {
		t.Fatalf("%v, %d moments", err, moments)
	}
	if !online {
		c.Lowers = next
		s = w.up(t, c)
	}
	if _, err := s.Publish(t.Context()); err != nil {
		t.Error(err)
	}
	if got := rootsIn(t, filepath.Join(place, "me")); len(got) != 1 || !leased(t, leases, "me", r.tool) {
		t.Errorf("in the end the new lower knows of %q, and the other one of the tool: %t", got, leased(t, leases, "me", r.tool))
	}
	w.takeDown(t, s)
}

// An upper with nothing in it was made for no lowers: nothing is moved, and nothing is said.
func TestFirstUpMovesNothing(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		a := object(t, "a")
		c := w.config(t, w.lower(t, "base", a))
		c.OnLowerChange = RefuseOnChange
		var said strings.Builder
		s, err := Assemble(t.Context(), resolved(t, c), loud(&said))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(said.String(), "moved") {
			t.Errorf("it says: %s", said.String())
		}
		if err := s.TakeDown(t.Context(), TakeDownOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// loud are parts that say what they do.
func loud(to *strings.Builder) Parts {
	p := parts()
	p.Log = slog.New(slog.NewTextHandler(to, nil))
	return p
}

// What a client's own collection frees is taken back from the owners of lowers without anybody asking.
func TestCollectionsOfClientsAreTold(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		used := object(t, "used")
		base := w.lower(t, "base", used)
		mine := filepath.Join(w.optIn(t, base), "me")
		c := w.config(t, base)
		c.Consumer = "me"
		s := w.up(t, c)
		addTo(t, s.Store, object(t, "added", used.Path()))
		if _, err := s.Publish(t.Context()); err != nil { // it is not fresh any more
			t.Fatal(err)
		}
		if got := rootsIn(t, mine); len(got) != 1 {
			t.Fatalf("registered: %q", got)
		}
		if _, err := s.Store.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); len(rootsIn(t, mine)) > 0; {
			if time.Now().After(end) {
				t.Fatalf("still registered: %q", rootsIn(t, mine))
			}
			time.Sleep(20 * time.Millisecond)
		}
		w.takeDown(t, s)
	})
}
