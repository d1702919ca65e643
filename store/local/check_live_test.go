package local_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
)

// While others add and collect, a check finds nothing.
func TestCheckOfALiveStore(t *testing.T) {
	root := testenv.Scratch(t)
	s := open(t, local.Options{Root: root})
	add(t, s, storetest.Chain(t, s.Dir(), 20)...)
	ctx, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	var added atomic.Int64
	for n := range 2 {
		others.Go(func() {
			mine, err := local.Open(t.Context(), local.Options{Root: root})
			if err != nil {
				t.Error(err)
				return
			}
			defer mine.Close()
			for i := 0; ctx.Err() == nil; i++ {
				o := storetest.Tree(t, storepath.DefaultDir, fmt.Sprintf("tree-%d-%d", n, i), map[string]string{"a": fmt.Sprint(i), "b/c": "c"})
				if err := mine.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
					t.Error(err)
					return
				}
				added.Add(1)
				if i%20 == 19 {
					if _, err := mine.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	rounds := 30
	if testing.Short() {
		rounds = 6
	}
	for i := range rounds {
		r, err := s.Check(t.Context(), check.Options{Contents: i%2 == 1})
		if err != nil || len(r.Errors) > 0 || len(r.Findings) > 0 {
			t.Errorf("round %d, after %d objects: %v, %v, %q", i, added.Load(), err, r.Errors, sentences(r))
			break
		}
	}
	stop()
	others.Wait()
}

// interrupter ends a context after some objects were read.
type interrupter struct {
	listener
	left atomic.Int64
	stop func()
}

func (i *interrupter) Log(level activity.Level, text string) {
	if level == activity.Talkative && i.left.Add(-1) == 0 {
		i.stop()
	}
}

// compared is how many objects of a store a journal says have been compared.
func compared(t *testing.T, journal string) int64 {
	t.Helper()
	text, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	var j struct {
		Layers map[string]struct{ Objects int64 }
	}
	must(t, json.Unmarshal(text, &j))
	return j.Layers["local"].Objects
}

// A check of contents that is interrupted goes on where it was, and what it has found by
// then is found again.
func TestCheckIsResumed(t *testing.T) {
	w := newChecked(t, testenv.Scratch(t))
	s := open(t, w.o)
	var objects []storetest.Object
	for i := range 200 {
		objects = append(objects, storetest.File(t, s.Dir(), fmt.Sprintf("file-%d", i), fmt.Sprint(i)))
	}
	add(t, s, objects...)
	var first storetest.Object // that is read
	for _, o := range objects {
		if first.Info == nil || o.Path().Base() < first.Path().Base() {
			first = o
		}
	}
	write(t, w.place(first), "bad")
	journal := filepath.Join(w.state, "strata-check.json")
	for {
		ctx, cancel := context.WithCancel(t.Context())
		in := &interrupter{stop: cancel}
		in.left.Store(100)
		r, err := s.Check(activity.With(ctx, in), check.Options{Contents: true})
		if !errors.Is(err, context.Canceled) || len(r.Findings) > 1 {
			t.Fatalf("%v, %q", err, sentences(r))
		}
		if compared(t, journal) > 0 { // whoever read the first object may have been the slowest
			break
		}
	}
	before := compared(t, journal)
	r := w.run(t, check.Options{Contents: true, Resume: true})
	l := r.Layers[0]
	// Among those that were compared is one that is looked at again.
	if l.Skipped != before || l.Skipped+l.Objects != 205+1 || len(r.Findings) != 1 || !r.Since.Before(r.Started) {
		t.Errorf("%d had been compared: %+v, %q", before, l, sentences(r))
	}
	if _, err := os.Stat(journal); err == nil {
		t.Error("the journal of a complete check is still there")
	}
	// One that is not of this store is no reason not to look.
	must(t, os.WriteFile(journal, []byte("{}"), 0o600))
	if r = w.run(t, check.Options{Contents: true, Resume: true}); r.Layers[0].Skipped != 0 || len(r.Findings) != 1 {
		t.Errorf("%+v, %q", r.Layers[0], sentences(r))
	}
}

// Without a repair nothing is written, also by who may not write.
func TestCheckOfReadOnlyStore(t *testing.T) {
	w := newChecked(t, testenv.Scratch(t))
	must(t, os.Remove(w.place(w.chain[0])))
	write(t, w.file("foreign"), "")
	before := listing(t, w.root)
	o := w.o
	o.ReadOnly = true
	s := open(t, o)
	r, err := s.Check(t.Context(), check.Options{Contents: true})
	if err != nil || len(r.Errors) > 0 || len(r.Findings) != 2 {
		t.Errorf("%v, %v, %q", err, r.Errors, sentences(r))
	}
	diff(t, before, listing(t, w.root))
	r, err = s.Check(t.Context(), check.Options{Repair: true, Drop: true})
	if err != nil || left(r) != 2 {
		t.Errorf("%v, %q", err, sentences(r))
	}
	diff(t, before, listing(t, w.root))
}

// What somebody may have who could not be asked is not given up, whatever is asked for.
func TestCheckGivesUpOnlyWhatNobodyHas(t *testing.T) {
	w := newChecked(t, testenv.Scratch(t))
	o, pool := w.o, w.o.Pool
	w.o.Pool = substitute.NewPool(func(context.Context, string) (store.Store, error) { return nil, errors.New("no route to host") })
	must(t, os.Remove(w.place(w.chain[0])))
	ask := func(context.Context, *check.Finding, []storepath.Path) (bool, error) {
		t.Error("it was asked whether to give it up")
		return true, nil
	}
	for _, how := range []check.Options{{Repair: true, Drop: true}, {Repair: true, Ask: ask}} {
		r := w.run(t, how)
		if len(r.Findings) != 1 || r.Findings[0].Outcome != check.Failed || !errors.Is(r.Findings[0].Err, store.ErrInconclusive) ||
			!strings.Contains(r.Findings[0].Err.Error(), "it is not given up, since it may be to be had all the same; where a substituter is down for good, --option substituters '' asks none") {
			t.Fatalf("%q", sentences(r))
		}
	}
	// Without that substituter nobody has it.
	w.o.Substituters = nil
	if r := w.run(t, check.Options{Repair: true}); left(r) != 1 || errors.Is(r.Findings[0].Err, store.ErrInconclusive) {
		t.Errorf("%q", sentences(r))
	}
	// And when it answers again, it is back.
	w.o = o
	w.o.Pool = pool
	if r := w.run(t, check.Options{Repair: true, Drop: true}); left(r) != 0 || r.Findings[0].Outcome != check.Repaired {
		t.Errorf("%q", sentences(r))
	}
}

// Of more findings than are kept in memory a part is mended at a time.
func TestCheckMendsInRounds(t *testing.T) {
	w := newChecked(t, testenv.Scratch(t))
	for i := range 57 {
		write(t, w.file(fmt.Sprintf("foreign-%d", i)), "")
	}
	if r := w.run(t, check.Options{Keep: 10}); len(r.Findings) != 10 || left(r) != 57 {
		t.Errorf("%d findings kept, %d found", len(r.Findings), left(r))
	}
	r := w.run(t, check.Options{Keep: 10, Repair: true})
	if left(r) != 0 || len(r.Counts) != 1 || r.Counts[0].Found != 57 || r.Counts[0].Repaired != 57 {
		t.Errorf("%+v: %q", r.Counts, sentences(r))
	}
}

// A path is given up with all that refers to it only if whoever is asked says so.
func TestCheckAsksBeforeItDrops(t *testing.T) {
	w := newChecked(t, testenv.Scratch(t))
	w.o.Substituters = nil
	must(t, os.Remove(w.place(w.chain[0])))
	asked := 0
	answer := false
	o := check.Options{Repair: true, Ask: func(_ context.Context, f *check.Finding, referrers []storepath.Path) (bool, error) {
		asked++
		if len(referrers) != 3 || f.Code != check.RowWithoutObject {
			t.Errorf("%s: %v", f.Code, referrers)
		}
		return answer, nil
	}}
	if r := w.run(t, o); left(r) != 1 || asked != 1 {
		t.Errorf("asked %d times: %q", asked, sentences(r))
	}
	answer = true
	if r := w.run(t, o); left(r) != 0 || asked != 2 {
		t.Errorf("asked %d times: %q", asked, sentences(r))
	}
	s := open(t, w.o)
	if v, err := s.ValidPaths(t.Context(), append(pathsOf(w.chain), w.tree.Path(), w.alone.Path())); err != nil || len(v) != 1 {
		t.Errorf("%v, %v", v, err)
	}
}
