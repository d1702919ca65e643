package stack

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func TestReasonsAreWhatTheyWere(t *testing.T) {
	a, b, c := object(t, "a").Path(), object(t, "b").Path(), object(t, "c").Path()
	all := [][]store.Reason{
		nil,
		{{Links: []string{"/r/a", "{temp:1}"}, Chain: []store.Step{{Path: a}}}},
		{
			{Links: []string{"/r/a"}, Chain: []store.Step{{Path: a}, {Path: b, Via: store.ByKeepOutputs}, {Path: c, Via: store.ByReference}}},
			{Links: []string{"/r/c"}, Chain: []store.Step{{Path: c}, {Path: b, Via: store.ByReference}, {Path: a, Via: store.ByKeepDerivations}}},
		},
	}
	text, err := json.Marshal(encodeReasons(all))
	if err != nil {
		t.Fatal(err)
	}
	var r whyResult
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if got, err := r.decode(len(all)); err != nil || !reflect.DeepEqual(got, all) {
		t.Errorf("%s\n%+v, %v", text, got, err)
	}
	for _, bad := range []whyResult{
		{},
		{Reasons: [][]whyReason{{{Chain: []int{0}}}}},
		{Paths: []string{a.Base()}, Reasons: [][]whyReason{{{Chain: []int{0, -1}}}}},
		{Paths: []string{"a"}, Reasons: [][]whyReason{nil}},
	} {
		if got, err := bad.decode(1); err == nil {
			t.Errorf("%+v: %+v", bad, got)
		}
	}
}

// Who serves a stack tells what keeps a path, and why.
func TestWhyAliveAsked(t *testing.T) {
	inEach(t, func(t *testing.T, w *world) {
		dep, idle := object(t, "dep"), object(t, "idle")
		used := object(t, "used", dep.Path())
		s := w.up(t, w.config(t, w.lower(t, "base", dep, idle)))
		addTo(t, s.Store, used)
		root := filepath.Join(s.Config.Upper.State, "gcroots/mine")
		if err := os.Symlink("/nix/store/"+used.Path().Base(), root); err != nil {
			t.Fatal(err)
		}
		paths := []storepath.Path{dep.Path(), used.Path(), idle.Path()}
		got, err := s.run.WhyAlive(t.Context(), paths, false)
		want := [][]store.Reason{
			{{Links: []string{root}, Chain: []store.Step{{Path: used.Path()}, {Path: dep.Path(), Via: store.ByReference}}}},
			{{Links: []string{root}, Chain: []store.Step{{Path: used.Path()}}}},
			nil,
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v", got, err)
		}
		gone := object(t, "gone")
		var invalid *store.InvalidPathError
		if _, err := s.run.WhyAlive(t.Context(), []storepath.Path{gone.Path()}, true); !errors.As(err, &invalid) || invalid.Path != "/nix/store/"+gone.Path().Base() {
			t.Errorf("%v", err)
		}
		w.takeDown(t, s)
	})
}
