package substitute_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
)

func TestSubstituteClosure(t *testing.T) {
	objects := storetest.Web(t, dir, 80)
	c := newCache(objects...)
	w := newWorldOf(t, local.Options{RequireSigs: true}, []string{"?priority=7"}, c)
	r := newRecord()
	var last substitute.Count
	ctx := activity.With(t.Context(), r)
	results, err := w.engine().Substitute(ctx, substitute.Opaque(objects[79].Path(), objects[78].Path()),
		substitute.Options{Observe: func(c substitute.Count) { last = c }})
	if err != nil || results[0].Status != store.Substituted || results[1].Status != store.Substituted {
		t.Fatalf("%+v, %v", results, err)
	}
	n := c.opens()
	if last != (substitute.Count{Done: uint64(n), Expected: uint64(n), Download: uint64(10 * n), Nar: last.Nar}) || last.Nar == 0 {
		t.Errorf("%d objects; counted %+v", n, last)
	}
	copies, subs := r.started(activity.CopyPath), r.started(activity.Substitute)
	if len(copies) != n || len(subs) != n || len(r.open) > 0 || len(r.started(activity.Realise)) > 0 {
		t.Errorf("%d objects: %d and %d activities, %d still open", n, len(copies), len(subs), len(r.open))
	}
	path := copies[0].Fields[0].Text
	want := activity.Event{
		ID: copies[0].ID, Parent: copies[0].Parent, Level: activity.Info, Type: activity.CopyPath, Text: "copying path '" + path + "' from 'cache://0'",
		Fields: []activity.Field{activity.Text(path), activity.Text("cache://0"), activity.Text("local")},
	}
	if got := copies[0]; got.Text != want.Text || !slices.Equal(got.Fields, want.Fields) || got.Level != want.Level || !strings.HasPrefix(path, "/nix/store/") {
		t.Errorf("%+v, want %+v", got, want)
	}
	// A second time nothing comes, and nobody is asked.
	queries := len(c.queries)
	if got := w.substitute(ctx, objects[79].Path())[0]; got.Status != store.AlreadyValid || c.opens() != n || len(c.queries) != queries {
		t.Errorf("%+v", got)
	}
}

func TestOwnActivities(t *testing.T) {
	chain := storetest.Chain(t, dir, 3)
	w := newWorld(t, local.Options{}, newCache(chain...))
	r := newRecord()
	w.substitute(activity.With(t.Context(), r), chain[2].Path())
	all := r.started(activity.CopyPaths)
	if len(all) != 1 || len(r.started(activity.Realise)) != 1 || len(r.open) > 0 {
		t.Fatalf("%+v", r.starts)
	}
	want := []activity.Field{activity.Int(3), activity.Int(3), activity.Int(0), activity.Int(0)}
	if got := r.last[all[0].ID]; !slices.Equal(got, want) {
		t.Errorf("progress %v", got)
	}
	for _, e := range r.started(activity.CopyPath) {
		if got := r.last[e.ID]; len(got) == 0 || got[0] != got[1] {
			t.Errorf("progress of %s: %v", e.Text, got)
		}
	}
}

func TestNextSourceWhenOneBreaks(t *testing.T) {
	objects := storetest.Web(t, dir, 60)
	bad, good := newCache(objects...), newCache(objects...)
	bad.open = halfThenFault
	w := newWorld(t, local.Options{}, bad, good)
	r := newRecord()
	var last substitute.Count
	results, err := w.engine().Substitute(activity.With(t.Context(), r), substitute.Opaque(pathsOf(objects)...), substitute.Options{
		Observe: func(c substitute.Count) { last = c },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range results {
		if got.Status != store.Substituted {
			t.Errorf("%+v", got)
		}
	}
	w.has(objects...)
	if last.Done != 60 || last.Expected != 60 || last.Failed != 0 || last.Running != 0 || last.Download != 600 {
		t.Errorf("%+v", last)
	}
	if n := r.said("a fault of the test"); n > 3+substitute.DefaultJobs || r.said("is not asked any more") != 1 || r.said("in a row") != 1 {
		t.Errorf("%q", r.lines)
	}
	// Those under way when it counted as broken, at most.
	if n := bad.opens(); n > 3+substitute.DefaultJobs {
		t.Errorf("the broken source was asked for %d objects", n)
	}
	for p, n := range good.opened {
		if n != 1 {
			t.Errorf("%s was fetched %d times", p, n)
		}
	}
}

// A source that has lost an object is not broken, and it is no failure.
func TestSourceLostObject(t *testing.T) {
	chain := storetest.Chain(t, dir, 2)
	c := newCache(chain...)
	c.open = func(_ context.Context, o storetest.Object) (io.ReadCloser, error) {
		if o.Path() == chain[0].Path() {
			return nil, &store.InvalidPathError{Path: dir.Print(o.Path())}
		}
		return io.NopCloser(o.Reader()), nil
	}
	w := newWorld(t, local.Options{}, c)
	results := w.substitute(t.Context(), chain[1].Path(), chain[0].Path())
	if results[0].Status != store.DependencyFailed || results[0].Failed || results[1].Status != store.NoSubstituters || results[1].Failed {
		t.Errorf("%+v", results)
	}
}

func TestOutcomes(t *testing.T) {
	chain := storetest.Chain(t, dir, 4)
	fork := storetest.File(t, dir, "fork", "fork", chain[0].Path())
	for _, c := range []struct {
		name    string
		cache   func() *cache
		outcome [3]store.BuildStatus // of chain[3], chain[2], fork
		failed  bool                 // of the first
		opens   int
	}{
		{"all there", func() *cache { return newCache(append(chain, fork)...) }, [3]store.BuildStatus{store.Substituted, store.Substituted, store.Substituted}, false, 5},
		{"nothing there", func() *cache { return newCache() }, [3]store.BuildStatus{store.NoSubstituters, store.NoSubstituters, store.NoSubstituters}, false, 0},
		{"one unknown", func() *cache { return newCache(chain[0], chain[2], chain[3], fork) }, [3]store.BuildStatus{store.DependencyFailed, store.DependencyFailed, store.Substituted}, false, 2},
		{"one that cannot be told", func() *cache {
			c := newCache(append(chain, fork)...)
			c.partial = map[storepath.Path]error{chain[1].Path(): errors.New("500")}
			return c
		}, [3]store.BuildStatus{store.DependencyFailed, store.DependencyFailed, store.Substituted}, true, 2},
		{"one that breaks", func() *cache {
			c := newCache(append(chain, fork)...)
			c.open = func(ctx context.Context, o storetest.Object) (io.ReadCloser, error) {
				if o.Path() == chain[1].Path() {
					return halfThenFault(ctx, o)
				}
				return io.NopCloser(o.Reader()), nil
			}
			return c
		}, [3]store.BuildStatus{store.DependencyFailed, store.DependencyFailed, store.Substituted}, true, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			source := c.cache()
			w := newWorld(t, local.Options{}, source)
			results := w.substitute(t.Context(), chain[3].Path(), chain[2].Path(), fork.Path())
			for i, got := range results {
				if got.Status != c.outcome[i] || (got.Err == nil) != got.Status.OK() {
					t.Errorf("%d: %+v", i, got)
				}
			}
			if results[0].Failed != c.failed {
				t.Errorf("failed: %+v", results[0])
			}
			if n := source.opens(); c.opens >= 0 && n != c.opens {
				t.Errorf("%d objects were fetched", n)
			}
		})
	}
}

// The second source says that an object refers to more than the first did.
func TestOtherReferencesFromAnotherSource(t *testing.T) {
	extra := storetest.File(t, dir, "extra", "extra")
	top := storetest.File(t, dir, "top", "top").Plain(t, dir, false)
	more := storetest.Object{Info: top.Info.Clone(), NAR: top.NAR}
	more.Info.References = []storepath.Path{extra.Path()}
	above, lost := storetest.File(t, dir, "above", "above", top.Path()), storetest.File(t, dir, "lost", "lost")
	first, second := newCache(top, above, lost), newCache(more, extra, lost)
	faulty := func(faults ...storetest.Object) func(context.Context, storetest.Object) (io.ReadCloser, error) {
		return func(ctx context.Context, o storetest.Object) (io.ReadCloser, error) {
			if slices.Contains(pathsOf(faults), o.Path()) {
				return halfThenFault(ctx, o)
			}
			return io.NopCloser(o.Reader()), nil
		}
	}
	first.open, second.open = faulty(top, lost), faulty(lost)
	w := newWorld(t, local.Options{}, first, second)
	got := w.substitute(t.Context(), above.Path(), lost.Path())
	if got[0].Status != store.Substituted || got[1].Status != store.NoSubstituters || !got[1].Failed {
		t.Fatalf("%+v", got)
	}
	w.has(above, top, extra)
}

// A source that gave no answer in parts is left alone like one that gave none as a
// whole.
func TestBrokenByParts(t *testing.T) {
	chain := storetest.Chain(t, dir, 3)
	bad := newCache(chain...)
	bad.partial = map[storepath.Path]error{chain[2].Path(): errors.New("500")}
	w := newWorld(t, local.Options{}, bad, newCache(chain...))
	if got := w.substitute(t.Context(), chain[2].Path())[0]; got.Status != store.Substituted || len(bad.queries) != 1 {
		t.Errorf("%+v, %d queries", got, len(bad.queries))
	}
}

// Two requests that want the same at once: it is fetched once, and both see it.
func TestFetchedOnce(t *testing.T) {
	objects := storetest.Web(t, dir, 40)
	c := newCache(objects...)
	watched := make(chan struct{})
	var once sync.Once
	c.open = func(_ context.Context, o storetest.Object) (io.ReadCloser, error) {
		if o.Path() == objects[0].Path() { // which all others need
			once.Do(func() { <-watched })
		}
		return io.NopCloser(o.Reader()), nil
	}
	w := newWorld(t, local.Options{}, c)
	records := []*record{newRecord(), newRecord()}
	var all sync.WaitGroup
	begun := make(chan struct{}, 2)
	for i, r := range records {
		all.Go(func() {
			engine := w.engine()
			if i == 1 {
				view, err := w.dest.Override(map[string]string{"fallback": "true"})
				if err != nil {
					t.Error(err)
				}
				engine = view.(*local.Store).Substitution()
			}
			var told sync.Once
			results, err := engine.Substitute(activity.With(t.Context(), r), substitute.Opaque(objects[39].Path()), substitute.Options{
				Observe: func(c substitute.Count) {
					// It waits for what is under way, whoever fetches it.
					if c.Running > 0 {
						told.Do(func() { begun <- struct{}{} })
					}
				},
			})
			if err != nil || results[0].Status != store.Substituted {
				t.Errorf("request %d: %+v, %v", i, results, err)
			}
		})
	}
	<-begun
	<-begun
	close(watched)
	all.Wait()
	for p, n := range c.opened {
		if n != 1 {
			t.Errorf("%s was fetched %d times", p, n)
		}
	}
	// What came before a request waited for it, that did not see come.
	for i, r := range records {
		saw := slices.ContainsFunc(r.started(activity.CopyPath), func(e activity.Event) bool {
			return e.Fields[0].Text == dir.Print(objects[0].Path())
		})
		if !saw || len(r.open) > 0 {
			t.Errorf("request %d saw %v of the object that both waited for, and %d activities did not end", i, saw, len(r.open))
		}
	}
}

// The request that fetches goes away; the one that waits takes over.
func TestWaiterTakesOver(t *testing.T) {
	o := storetest.Tree(t, dir, "large", map[string]string{"a": strings.Repeat("a", 1<<20)})
	c := newCache(o)
	ctx, cancel := context.WithCancel(t.Context())
	hanging, waiting := make(chan struct{}), make(chan struct{})
	var once sync.Once
	c.open = func(ctx context.Context, o storetest.Object) (io.ReadCloser, error) {
		hang := false
		once.Do(func() { hang = true })
		if hang {
			return o.Hanging(func() { close(hanging) }).Open(ctx)
		}
		return io.NopCloser(o.Reader()), nil
	}
	w := newWorld(t, local.Options{}, c)
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := w.engine().Substitute(ctx, substitute.Opaque(o.Path()), substitute.Options{}); !errors.Is(err, context.Canceled) {
			t.Errorf("the one that was canceled: %v", err)
		}
	})
	<-hanging
	all.Go(func() {
		var told sync.Once
		results, err := w.engine().Substitute(t.Context(), substitute.Opaque(o.Path()), substitute.Options{
			Observe: func(c substitute.Count) {
				if c.Running > 0 {
					told.Do(func() { close(waiting) })
				}
			},
		})
		if err != nil || results[0].Status != store.Substituted {
			t.Errorf("the one that waited: %+v, %v", results, err)
		}
	})
	<-waiting
	cancel()
	all.Wait()
	w.has(o)
	if n := c.opens(); n != 2 {
		t.Errorf("fetched %d times", n)
	}
}

func TestRepairWanted(t *testing.T) {
	chain := storetest.Chain(t, dir, 2)
	c := newCache(chain...)
	w := newWorld(t, local.Options{}, c)
	w.substitute(t.Context(), chain[1].Path())
	results, err := w.engine().Substitute(t.Context(), substitute.Opaque(chain[1].Path()), substitute.Options{Repair: true})
	if err != nil || results[0].Status != store.Substituted || c.opened[chain[1].Path()] != 2 || c.opened[chain[0].Path()] != 1 {
		t.Errorf("%+v, %v; opened %v", results, err, c.opened)
	}
	w.has(chain...)
}

// Only who has asked all may say that nobody has it.
func TestRepairTellsWhetherNobodyHasIt(t *testing.T) {
	o := storetest.File(t, dir, "a", "a")
	other := storetest.File(t, dir, "a", "b")
	silent := newCache()
	silent.refuse = errors.New("no route to host")
	partial := newCache()
	partial.partial = map[storepath.Path]error{o.Path(): errors.New("half an answer")}
	torn := newCache(o)
	torn.open = halfThenFault
	liar := newCache(o)
	liar.open = func(context.Context, storetest.Object) (io.ReadCloser, error) {
		return io.NopCloser(other.Reader()), nil
	}
	for _, tt := range []struct {
		name   string
		caches []*cache
		may    bool
	}{
		{"none", nil, false},
		{"one that has not", []*cache{newCache(other)}, false},
		{"one that gives something else", []*cache{liar}, false},
		{"one that refuses", []*cache{newCache(other), silent}, true},
		{"one that does not say", []*cache{partial, newCache()}, true},
		{"one that breaks off", []*cache{torn}, true},
		{"one that gives something else, and one that refuses", []*cache{liar, silent}, true},
	} {
		w := newWorld(t, local.Options{}, tt.caches...)
		err := w.engine().Repair(t.Context(), o.Info)
		if err == nil || errors.Is(err, store.ErrInconclusive) != tt.may {
			t.Errorf("%s: %v, which is inconclusive: %t", tt.name, err, errors.Is(err, store.ErrInconclusive))
		}
	}
	pool := substitute.NewPool(func(context.Context, string) (store.Store, error) { return nil, errors.New("no such host") })
	e := substitute.New(pool, newWorld(t, local.Options{}).dest, substitute.Settings{URIs: []string{"https://down"}})
	if err := e.Repair(t.Context(), o.Info); !errors.Is(err, store.ErrInconclusive) || !strings.Contains(err.Error(), "'https://down' could not be asked") {
		t.Errorf("one that cannot be opened: %v", err)
	}
}

// A destination that takes nothing is an error, not a reason to build.
func TestReadOnlyDestination(t *testing.T) {
	o := storetest.File(t, dir, "a", "a")
	w := newWorld(t, local.Options{}, newCache(o))
	w.substitute(t.Context(), o.Path())
	other := storetest.File(t, dir, "b", "b")
	ro, err := local.Open(t.Context(), local.Options{Root: strings.TrimSuffix(w.dest.RealDir(), "/nix/store"), ReadOnly: true, Pool: w.pool, Substituters: w.names})
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	_, err = ro.Substitution().Substitute(t.Context(), substitute.Opaque(other.Path()), substitute.Options{})
	if err != nil {
		t.Errorf("nothing to be had: %v", err)
	}
	c := newCache(other)
	pool := substitute.NewPool(func(context.Context, string) (store.Store, error) { return c, nil })
	_, err = substitute.New(pool, ro, substitute.Settings{URIs: []string{"cache://x"}}).Substitute(t.Context(), substitute.Opaque(other.Path()), substitute.Options{})
	if !errors.Is(err, store.ErrReadOnly) || c.opens() > 0 {
		t.Errorf("%v", err)
	}
}
