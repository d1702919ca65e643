package substitute_test

import (
	"context"
	"io"
	"testing"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
)

// Results that are certain are told while other objects are still on their way.
func TestResultsAreToldEarly(t *testing.T) {
	objects := []storetest.Object{storetest.File(t, dir, "small", "small"), storetest.File(t, dir, "slow", "slow"), storetest.File(t, dir, "here", "here")}
	nobody := storetest.File(t, dir, "nobody", "nobody has it").Path()
	small, slow, here := objects[0].Path(), objects[1].Path(), objects[2].Path()
	c := newCache(objects[:2]...)
	told := make(chan storepath.Path, 10)
	c.open = func(ctx context.Context, o storetest.Object) (io.ReadCloser, error) {
		if o.Path() == slow {
			for range 3 {
				select {
				case <-told:
				case <-ctx.Done():
					return nil, context.Cause(ctx)
				}
			}
		}
		return io.NopCloser(o.Reader()), nil
	}
	w := newWorld(t, local.Options{}, c)
	if err := w.dest.Add(t.Context(), objects[2].Info, objects[2].Reader(), store.AddOptions{}); err != nil {
		t.Fatal(err)
	}
	early := map[storepath.Path]store.BuildStatus{}
	results, err := w.engine().Substitute(t.Context(), substitute.Opaque(slow, small, nobody, here), substitute.Options{
		Early: func(r substitute.Result) {
			if _, twice := early[r.Path]; twice {
				t.Errorf("%s was told twice", r.Path)
			}
			early[r.Path] = r.Status
			told <- r.Path
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if early[r.Path] != r.Status {
			t.Errorf("%s: %d in the end, %d early", r.Path, r.Status, early[r.Path])
		}
	}
}
