package lease

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// lower is a lower store: what is valid there.
type lower struct {
	mu    sync.Mutex
	valid storepath.Set
}

func newLower(all ...storepath.Path) *lower { return &lower{valid: storepath.NewSet(all...)} }

func (l *lower) has(_ context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []storepath.Path
	for _, p := range paths {
		if l.valid.Has(p) {
			out = append(out, p)
		}
	}
	return out, nil
}

func (l *lower) lose(p storepath.Path) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.valid, p)
}

// eachPlace runs a test in a directory and in memory.
func eachPlace(t *testing.T, test func(t *testing.T, p *Place, objects objstore.Store)) {
	t.Helper()
	t.Run("directory", func(t *testing.T) {
		p, err := OpenDirectory(filepath.Join(t.TempDir(), "leases"))
		if err != nil {
			t.Fatal(err)
		}
		test(t, p, p.objects)
	})
	t.Run("memory", func(t *testing.T) {
		m := objstore.NewMemory()
		test(t, NewPlace(m, "memory"), m)
	})
}

func initPlace(t *testing.T, p *Place, terms Terms) {
	t.Helper()
	if err := p.Init(t.Context(), terms); err != nil {
		t.Fatal(err)
	}
}

func keeper(t *testing.T, p *Place, consumer string, l *lower, uses ...storepath.Path) *Keeper {
	t.Helper()
	k, err := NewKeeper(p, KeeperOptions{
		Consumer: consumer, Holder: "holder of " + consumer, StoreDir: storepath.DefaultDir, Valid: l.has,
		Uses: func(context.Context) ([]storepath.Path, uint64, error) { return uses, uint64(len(uses)), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// listed is a store of which only the paths matter.
type listed struct {
	store.Store
	paths []storepath.Path
}

func storeWith(t *testing.T, all ...storepath.Path) store.Store {
	t.Helper()
	return listed{paths: all}
}

func (l listed) Dir() storepath.Dir { return storepath.DefaultDir }

func (l listed) AllPaths(context.Context) iter.Seq2[storepath.Path, error] {
	return func(yield func(storepath.Path, error) bool) {
		for _, p := range l.paths {
			if !yield(p, nil) {
				return
			}
		}
	}
}

func (l listed) PathFromHashPart(_ context.Context, hashPart string) (storepath.Path, error) {
	for _, p := range l.paths {
		if p.HashPart() == hashPart {
			return p, nil
		}
	}
	return storepath.Path{}, nil
}

func TestNothingIsPublishedUninvited(t *testing.T) {
	eachPlace(t, func(t *testing.T, p *Place, _ objstore.Store) {
		k := keeper(t, p, "c", newLower(), path(t, "a"))
		if _, err := k.Renew(t.Context()); !errors.Is(err, ErrNoTerms) {
			t.Errorf("published: %v", err)
		}
		if err := k.Lean(t.Context(), paths(t, "b")); !errors.Is(err, ErrNoTerms) {
			t.Errorf("leaned: %v", err)
		}
		if _, err := p.Collect(t.Context(), "x"); !errors.Is(err, ErrNoTerms) {
			t.Errorf("collected: %v", err)
		}
		if _, err := p.Roots(t.Context(), storeWith(t)); !errors.Is(err, ErrNoTerms) {
			t.Errorf("no leases at all: %v", err)
		}
		if err := p.Drop(t.Context(), "c"); !errors.Is(err, ErrNoTerms) {
			t.Errorf("dropped: %v", err)
		}
		if d, ok := p.objects.(*objstore.Directory); ok {
			if _, err := os.Lstat(d.Path()); err == nil {
				t.Error("something was written")
			}
		}
	})
}

func TestWhatIsLeasedIsKept(t *testing.T) {
	eachPlace(t, func(t *testing.T, p *Place, _ objstore.Store) {
		initPlace(t, p, Terms{})
		a, b, c, gone := path(t, "a"), path(t, "b"), path(t, "c"), path(t, "gone")
		l := newLower(a, b, c)
		alice, bob := keeper(t, p, "alice", l, a, gone), keeper(t, p, "bob", l, a, b)
		for _, k := range []*Keeper{alice, bob, alice} {
			if _, err := k.Renew(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		roots, err := p.Roots(t.Context(), storeWith(t, a, b, c))
		if err != nil {
			t.Fatal(err)
		}
		if len(roots) != 2 || !slices.Equal(roots[a], []string{"{lease:alice and 1 more}"}) || !slices.Equal(roots[b], []string{"{lease:bob}"}) {
			t.Errorf("%v", roots)
		}
		_, all, err := p.List(t.Context())
		if err != nil || len(all) != 2 || all[0].Lease.Sequence != 2 || all[1].State != Live {
			t.Errorf("%+v, %v", all, err)
		}
		if err := p.Drop(t.Context(), "alice"); err != nil {
			t.Fatal(err)
		}
		if roots, err = p.Roots(t.Context(), storeWith(t, a, b, c)); err != nil || !slices.Equal(roots[a], []string{"{lease:bob}"}) {
			t.Errorf("%v, %v", roots, err)
		}
	})
}

// Few hash parts are asked for one by one, many are looked for among all.
func TestManyRootsAreNamed(t *testing.T) {
	p := NewPlace(objstore.NewMemory(), "memory")
	initPlace(t, p, Terms{})
	var all []storepath.Path
	for i := range fewHashes + 5 {
		q, err := storepath.FromParts(bytes.Repeat([]byte{byte(i), byte(i >> 8), 3, 4}, HashLen/4), "many")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, q)
	}
	if _, err := keeper(t, p, "c", newLower(), all...).Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	roots, err := p.Roots(t.Context(), storeWith(t, append(all[3:], path(t, "other"))...))
	if err != nil || len(roots) != len(all)-3 {
		t.Errorf("%d, %v", len(roots), err)
	}
}

// What cannot be read keeps everything.
func TestUnreadableLeaseIsAnError(t *testing.T) {
	eachPlace(t, func(t *testing.T, p *Place, objects objstore.Store) {
		initPlace(t, p, Terms{})
		a := path(t, "a")
		if _, err := keeper(t, p, "good", newLower(a), a).Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		put := func(name string, data []byte) {
			t.Helper()
			if err := objects.Put(t.Context(), name, bytes.NewReader(data), objstore.PutOptions{Size: objstore.Unknown}); err != nil {
				t.Fatal(err)
			}
		}
		good, err := sample(t).Encode()
		if err != nil {
			t.Fatal(err)
		}
		elsewhere := sample(t)
		elsewhere.StoreDir = "/gnu/store"
		other, err := elsewhere.Encode()
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{"empty": nil, "torn": good[:50], "of-another": good, "dev-of-alice": other} {
			put(leaseName(name), data)
			_, err := p.Roots(t.Context(), storeWith(t, a))
			var ue *UnreadableError
			if !errors.As(err, &ue) || ue.Name != leaseName(name) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", name, err)
			}
			if roots, err := p.Roots(t.Context(), storeWith(t, a), name); err != nil || len(roots) != 1 {
				t.Errorf("%s: told to pass it over: %v, %v", name, roots, err)
			}
			if _, all, err := p.List(t.Context()); err != nil || len(all) != 2 {
				t.Errorf("%s: listed are %d, %v", name, len(all), err)
			}
			if err := objects.Delete(t.Context(), leaseName(name)); err != nil {
				t.Fatal(err)
			}
		}
		put("leases/README", []byte("not a lease"))
		if _, err := p.Roots(t.Context(), storeWith(t, a)); err != nil {
			t.Errorf("what is no lease: %v", err)
		}
	})
}

func TestTwoConsumersWithOneName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPlace(objstore.NewMemory(), "memory")
		initPlace(t, p, Terms{Term: time.Hour, Grace: time.Hour})
		l := newLower()
		first, second := keeper(t, p, "c", l), keeper(t, p, "c", l)
		second.o.Holder = "somebody else"
		if _, err := first.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		var ce *ConflictError
		if _, err := second.Renew(t.Context()); !errors.As(err, &ce) || ce.Holder != "holder of c" {
			t.Errorf("%v", err)
		}
		time.Sleep(3 * time.Hour)
		if l, err := second.Renew(t.Context()); err != nil || l.Sequence != 2 {
			t.Errorf("after the other has lapsed: %+v, %v", l, err)
		}
	})
}

// A consumer that does not come back keeps its lease for the grace period.
func TestGraceThenLapsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPlace(objstore.NewMemory(), "memory")
		initPlace(t, p, Terms{Term: time.Hour, Grace: 24 * time.Hour, Skew: time.Minute})
		a := path(t, "a")
		k := keeper(t, p, "c", newLower(a), a)
		if _, err := k.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			sleep time.Duration
			roots int
		}{{30 * time.Minute, 1}, {time.Hour, 1}, {23 * time.Hour, 1}, {time.Hour, 0}} {
			time.Sleep(c.sleep)
			if dropped, err := p.DropLapsed(t.Context()); err != nil || len(dropped) != 1-c.roots {
				t.Errorf("dropped %v, %v", dropped, err)
			}
			if roots, err := p.Roots(t.Context(), storeWith(t, a)); err != nil || len(roots) != c.roots {
				t.Errorf("%v, %v", roots, err)
			}
		}
		if _, err := k.Renew(t.Context()); err != nil {
			t.Errorf("it comes back: %v", err)
		}
	})
}

// Who looks what is used while somebody begins to lean on something may have looked
// before that or behind it, and tells of it when others have long told.
func TestRenewalsThatOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPlace(objstore.NewMemory(), "memory")
		initPlace(t, p, Terms{})
		a := path(t, "a")
		k := keeper(t, p, "c", newLower(a))
		renew := func(began time.Time, uses ...storepath.Path) *Lease {
			t.Helper()
			l, err := k.RenewWith(t.Context(), began, uses, uint64(len(uses)))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			return l
		}
		renew(time.Now())
		early := time.Now() // and it finds nothing
		time.Sleep(time.Second)
		if err := k.Lean(t.Context(), []storepath.Path{a}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		renew(time.Now(), a)
		if l := renew(early); !l.Roots.Has(HashOf(a)) || l.Uses != 1 {
			t.Errorf("what an earlier look did not find is lost: %+v", l)
		}
		if l := renew(time.Now()); len(l.Roots) != 0 || l.Uses != 0 {
			t.Errorf("what is not used any more stays: %+v", l)
		}
	})
}

// Whatever comes between, a path that somebody leans on is not deleted: either the
// collection finds it leased, or the consumer finds it gone.
func TestLeaningDuringACollection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPlace(objstore.NewMemory(), "memory")
		initPlace(t, p, Terms{Settle: time.Minute})
		a, b := path(t, "a"), path(t, "b")
		l := newLower(a, b)
		k := keeper(t, p, "c", l)

		c, err := p.Collect(t.Context(), "test") // has settled
		if err != nil {
			t.Fatal(err)
		}
		roots, err := p.Roots(c.Context(), storeWith(t, a, b))
		if err != nil || len(roots) != 0 {
			t.Fatalf("%v, %v", roots, err)
		}
		leaned := make(chan error, 2)
		go func() { leaned <- k.Lean(t.Context(), []storepath.Path{a}) }()
		synctest.Wait()
		time.Sleep(5 * time.Minute) // it waits
		select {
		case err := <-leaned:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
		time.Sleep(time.Hour) // longer than a mark that nobody renews
		l.lose(a)
		if err := c.End(); err != nil {
			t.Fatal(err)
		}
		if err := <-leaned; !errors.Is(err, ErrGone) {
			t.Errorf("leaning on what was collected: %v", err)
		}
		if err := k.Lean(t.Context(), []storepath.Path{b}); err != nil {
			t.Fatal(err)
		}
		if c, err = p.Collect(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
		if roots, err := p.Roots(c.Context(), storeWith(t, b)); err != nil || len(roots) != 1 {
			t.Errorf("what was leaned on before: %v, %v", roots, err)
		}
		if err := c.End(); err != nil {
			t.Fatal(err)
		}
	})
}

// The mark of a killed collection holds nobody up for long, and the next one takes
// it away.
func TestMarkOfAKilledCollection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := objstore.NewMemory()
		p := NewPlace(m, "memory")
		initPlace(t, p, Terms{Skew: time.Minute})
		text := `{"version":1,"who":"x","started":"` + time.Now().UTC().Format(time.RFC3339) + `","expires":"` + time.Now().Add(markTerm).UTC().Format(time.RFC3339) + `"}`
		if err := m.Put(t.Context(), "collecting/x.json", strings.NewReader(text), objstore.PutOptions{Size: objstore.Unknown}); err != nil {
			t.Fatal(err)
		}
		a := path(t, "a")
		began := time.Now()
		if err := keeper(t, p, "c", newLower(a)).Lean(t.Context(), []storepath.Path{a}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < markTerm || took > markTerm+2*time.Minute {
			t.Errorf("it waited for %s", took)
		}
		c, err := p.Collect(t.Context(), "test")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Stat(t.Context(), "collecting/x.json"); !errors.Is(err, objstore.ErrNotExist) {
			t.Errorf("it is still there: %v", err)
		}
		if err := c.End(); err != nil {
			t.Fatal(err)
		}
		for info, err := range m.List(t.Context(), collectingDir) {
			t.Errorf("left: %v, %v", info, err)
		}
	})
}

// flaky is a storage that can be taken away.
type flaky struct {
	objstore.Store
	mu   sync.Mutex
	down bool
}

var errDown = errors.New("the storage does not answer")

func (f *flaky) set(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
}

func (f *flaky) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return errDown
	}
	return nil
}

func (f *flaky) Put(ctx context.Context, name string, body io.Reader, o objstore.PutOptions) error {
	if err := f.err(); err != nil {
		return err
	}
	return f.Store.Put(ctx, name, body, o)
}

func (f *flaky) Get(ctx context.Context, name string, o objstore.GetOptions) (io.ReadCloser, objstore.Info, error) {
	if err := f.err(); err != nil {
		return nil, objstore.Info{}, err
	}
	return f.Store.Get(ctx, name, o)
}

// A collection whose mark cannot be renewed ends before consumers take it for ended.
func TestCollectionEndsWithItsMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{Store: objstore.NewMemory()}
		p := NewPlace(f, "flaky")
		initPlace(t, p, Terms{})
		c, err := p.Collect(t.Context(), "test")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * markTerm)
		if c.Context().Err() != nil {
			t.Fatal("it ended although its mark was renewed")
		}
		f.set(true)
		began := time.Now()
		<-c.Context().Done()
		if took := time.Since(began); took >= markTerm || !errors.Is(context.Cause(c.Context()), ErrMarkLost) {
			t.Errorf("after %s: %v", took, context.Cause(c.Context()))
		}
		f.set(false)
		if err := c.End(); err != nil {
			t.Error(err)
		}
	})
}

// A place that does not answer is never one without leases.
func TestPlaceThatDoesNotAnswer(t *testing.T) {
	f := &flaky{Store: objstore.NewMemory()}
	p := NewPlace(f, "flaky")
	initPlace(t, p, Terms{})
	a, b := path(t, "a"), path(t, "b")
	k := keeper(t, p, "c", newLower(a, b), a)
	if _, err := k.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.set(true)
	if _, err := p.Roots(t.Context(), storeWith(t, a)); !errors.Is(err, errDown) {
		t.Errorf("roots: %v", err)
	}
	if _, err := p.Collect(t.Context(), "x"); !errors.Is(err, errDown) {
		t.Errorf("a collection: %v", err)
	}
	if err := k.Lean(t.Context(), []storepath.Path{b}); !errors.Is(err, errDown) {
		t.Errorf("leaning: %v", err)
	}
	if l, err := k.Last(); l == nil || !errors.Is(err, errDown) {
		t.Errorf("%v, %v", l, err)
	}
	f.set(false)
	if err := k.Lean(t.Context(), []storepath.Path{b}); err != nil {
		t.Fatal(err)
	}
	if roots, err := p.Roots(t.Context(), storeWith(t, a, b)); err != nil || len(roots) != 2 {
		t.Errorf("%v, %v", roots, err)
	}
}

// Those who lean at the same moment share publications, and nobody returns before his
// is out.
func TestManyLeanAtOnce(t *testing.T) {
	p := NewPlace(objstore.NewMemory(), "memory")
	initPlace(t, p, Terms{})
	var all []storepath.Path
	for i := range 200 {
		q, err := storepath.FromParts(bytes.Repeat([]byte{byte(i), 7}, HashLen/2), "p")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, q)
	}
	k := keeper(t, p, "c", newLower(all...))
	var wg sync.WaitGroup
	for i, q := range all {
		wg.Go(func() {
			if err := k.Lean(t.Context(), []storepath.Path{q}); err != nil {
				t.Error(err)
			}
			l, err := p.Read(t.Context(), "c")
			if err != nil || !l.Roots.Has(HashOf(q)) {
				t.Errorf("%s is not leased: %v", q, err)
			}
			if i%20 == 0 {
				if _, err := k.Renew(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// What was leaned on stays leased until it is found among what is used, or whoever
// wanted it has long given up.
func TestFreshLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPlace(objstore.NewMemory(), "memory")
		initPlace(t, p, Terms{})
		a, b := path(t, "a"), path(t, "b")
		k := keeper(t, p, "c", newLower(a, b), a)
		if err := k.Lean(t.Context(), []storepath.Path{b}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []int{2, 2, 1} {
			l, err := k.Renew(t.Context())
			if err != nil || len(l.Roots) != want {
				t.Errorf("%d roots, not %d: %v", len(l.Roots), want, err)
			}
			time.Sleep(hold * 2 / 3)
		}
	})
}

func TestTerms(t *testing.T) {
	p := NewPlace(objstore.NewMemory(), "memory")
	initPlace(t, p, Terms{})
	got, err := p.Terms(t.Context())
	if err != nil || got != (Terms{StoreDir: storepath.DefaultDir, Term: DefaultTerm, Grace: DefaultGrace, Skew: DefaultSkew}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []Terms{{Term: time.Millisecond}, {Term: 2 * MaxTerm}, {Skew: 48 * time.Hour}} {
		if err := p.Init(t.Context(), bad); err == nil {
			t.Errorf("%+v", bad)
		}
	}
	initPlace(t, p, Terms{StoreDir: "/gnu/store", Grace: -1})
	if got, err = p.Terms(t.Context()); err != nil || got.Grace != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := keeper(t, p, "c", newLower()).Renew(t.Context()); err == nil || !strings.Contains(err.Error(), "/gnu/store") {
		t.Error(err)
	}
	if _, err := p.Roots(t.Context(), storeWith(t)); err == nil || !strings.Contains(err.Error(), "/gnu/store") {
		t.Error(err)
	}
}
