package stack

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/substitute"
)

// For the silence of a substituter nothing is dropped, unless whoever asks for the pivot says that it
// is not to be asked.
func TestPivotWithoutASilentSubstituter(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		r := newRelease(t, w)
		if err := testenv.RemoveAll(filepath.Join(r.old, storeInRoot, r.libc.Path().Base())); err != nil {
			t.Fatal(err)
		}
		p := parts()
		p.Upper.Substituters = []string{"memory://silent"}
		p.Upper.Pool = substitute.NewPool(func(context.Context, string) (store.Store, error) { return nil, errors.New("no route to host") })
		s, err := Assemble(t.Context(), resolved(t, w.config(t, r.old)), p)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { w.takeDown(t, s) }()
		if err := s.Announce(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		r.fill(t, s)
		o := PivotOptions{Lowers: []Lower{lowerOf(t, r.next)}, DropMissing: true}
		if _, err := s.run.Pivot(t.Context(), o); err == nil || !strings.Contains(err.Error(), "'memory://silent' could not be asked for them; to go on without it, give the others by --option substituters") {
			t.Fatalf("%v", err)
		}
		has(t, s, r.mine)
		o.Substituters = &[]string{}
		res, err := s.run.Pivot(t.Context(), o)
		if err != nil || !res.Done || len(res.Plan.Missing) != 1 {
			t.Fatalf("%+v, %v", res, err)
		}
		if left := inLayer(t, &s.Config); len(left) > 0 {
			t.Errorf("left in the upper: %q", left)
		}
		sound(t, s)
	})
}
