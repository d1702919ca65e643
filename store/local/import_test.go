package local_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/internal/memstore"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// offered makes imports of objects, and counts how often each is opened.
func offered(objects []storetest.Object) ([]store.Import, []atomic.Int64) {
	opened := make([]atomic.Int64, len(objects))
	var imports []store.Import
	for i, o := range objects {
		imports = append(imports, o.Import(&opened[i]))
	}
	return imports, opened
}

// clean fails if anything lies in a store directory beside objects that are valid.
func clean(t *testing.T, s *local.Store) {
	t.Helper()
	entries, err := os.ReadDir(s.RealDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == ".links" {
			continue
		}
		p, err := storepath.ParseBase(e.Name())
		if err != nil {
			t.Errorf("'%s' lies about", e.Name())
			continue
		}
		if v, err := s.ValidPaths(t.Context(), []storepath.Path{p}); err != nil || len(v) == 0 {
			t.Errorf("'%s' is there and not valid (%v)", e.Name(), err)
		}
	}
}

// What is complete does not wait for what takes long: the second object comes only when
// the first is valid.
func TestImportRegistersWhileOthersCome(t *testing.T) {
	s := emptyStore(t, local.Options{})
	objects := []storetest.Object{storetest.File(t, s.Dir(), "first", "1"), storetest.File(t, s.Dir(), "second", "2")}
	imports, _ := offered(objects)
	valid := make(chan struct{})
	open := imports[1].Offers[0].Open
	imports[1].Offers[0].Open = func(ctx context.Context) (io.ReadCloser, error) {
		<-valid
		return open(ctx)
	}
	err := s.Import(t.Context(), imports, store.ImportOptions{AddOptions: trusting, Done: func(i int, _ *store.Offer, err error) {
		if i == 0 && err == nil {
			close(valid)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	wantFirst(t, s, objects, 2)
}

// A source hears that its NAR is not the promised one, and only then, and the error says
// which source it was.
func TestImportTellsSources(t *testing.T) {
	s := emptyStore(t, local.Options{})
	good, bad := storetest.File(t, s.Dir(), "good", "1"), storetest.File(t, s.Dir(), "bad", "2")
	bad.Info = bad.Info.Clone()
	bad.Info.NarHash = nixhash.Of(nixhash.SHA256, "other")
	imports, _ := offered([]storetest.Object{good, bad})
	var told [2]atomic.Int64
	for i := range imports {
		offer := &imports[i].Offers[0]
		offer.From = "test://source"
		open := offer.Open
		offer.Open = func(ctx context.Context) (io.ReadCloser, error) {
			if !store.OnWrong(ctx, func() { told[i].Add(1) }) {
				t.Error("nobody would say")
			}
			return open(ctx)
		}
	}
	err := s.Import(t.Context(), imports, store.ImportOptions{AddOptions: trusting})
	if !errors.Is(err, store.ErrMismatch) || !strings.Contains(err.Error(), "test://source") {
		t.Error(err)
	}
	if told[0].Load() != 0 || told[1].Load() != 1 {
		t.Errorf("told %d times of the good one, %d times of the bad one", told[0].Load(), told[1].Load())
	}
	wantFirst(t, s, []storetest.Object{good, bad}, 1)
}

// What a lower store has is not fetched, and what it has of references comes along.
func TestImportOverLower(t *testing.T) {
	chain := storetest.Chain(t, storepath.DefaultDir, 6)
	lower := memstore.New(storepath.DefaultDir)
	for _, o := range chain[:4] {
		if err := lower.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := local.OpenLayered(t.Context(), local.Options{Root: testenv.Scratch(t)}, local.Layering{Lower: lower})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	imports, opened := offered(chain)
	if err := s.Import(t.Context(), imports[2:], store.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	for i := range chain {
		if n := opened[i].Load(); n != 0 != (i >= 4) {
			t.Errorf("object %d was fetched %d times", i, n)
		}
		if _, err := os.Lstat(filepath.Join(s.RealDir(), chain[i].Path().Base())); (err == nil) != (i >= 4) {
			t.Errorf("object %d on disk: %v", i, err)
		}
	}
	// The database is whole without the lower.
	own := s.Own()
	if _, err := store.Closure(t.Context(), own, []storepath.Path{chain[5].Path()}); err != nil {
		t.Error(err)
	}
}

// Two stores as of two processes import the same in different orders: each object
// is fetched by one of them.
func TestImportsOfTwoProcesses(t *testing.T) {
	root := testenv.Scratch(t)
	objects := storetest.Web(t, storepath.DefaultDir, 300)
	imports, opened := offered(objects)
	var all sync.WaitGroup
	for i := range 2 {
		s := open(t, local.Options{Root: root})
		mine := slices.Clone(imports)
		if i > 0 {
			slices.Reverse(mine)
		}
		all.Go(func() {
			if err := s.Import(t.Context(), mine, store.ImportOptions{Jobs: 5}); err != nil {
				t.Errorf("process %d: %v", i, err)
			}
		})
	}
	all.Wait()
	for i := range opened {
		if n := opened[i].Load(); n != 1 {
			t.Errorf("object %d was fetched %d times", i, n)
		}
	}
	clean(t, open(t, local.Options{Root: root}))
}

// Sources that contradict each other keep two imports from nothing: neither holds
// what the other waits for.
func TestImportsThatContradictEachOther(t *testing.T) {
	root := testenv.Scratch(t)
	a := storetest.File(t, storepath.DefaultDir, "a", "a").Plain(t, storepath.DefaultDir, false)
	b := storetest.File(t, storepath.DefaultDir, "b", "b").Plain(t, storepath.DefaultDir, false)
	refers := func(o, to storetest.Object) store.Import {
		o.Info = o.Info.Clone()
		o.Info.References = []storepath.Path{to.Path()}
		return o.Import(nil)
	}
	for range 20 {
		s, other := open(t, local.Options{Root: root}), open(t, local.Options{Root: root})
		var all sync.WaitGroup
		all.Go(func() {
			if err := s.Import(t.Context(), []store.Import{refers(a, b), b.Import(nil)}, store.ImportOptions{}); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			if err := other.Import(t.Context(), []store.Import{refers(b, a), a.Import(nil)}, store.ImportOptions{}); err != nil {
				t.Error(err)
			}
		})
		all.Wait()
		_, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// listener is a sink that calls back.
type listener func(text string)

func (l listener) Log(_ activity.Level, text string)                  { l(text) }
func (listener) Start(activity.Event)                                 {}
func (listener) Stop(uint64)                                          {}
func (listener) Result(uint64, activity.ResultType, []activity.Field) {}

// Somebody else, a stock Nix perhaps, has an object locked. Only what refers to it
// waits, whatever the number of slots.
func TestImportWaitsForLocks(t *testing.T) {
	root := testenv.Scratch(t)
	s := open(t, local.Options{Root: root})
	base := storetest.File(t, s.Dir(), "base", "base")
	above := storetest.File(t, s.Dir(), "above", "above", base.Path())
	others := storetest.Chain(t, s.Dir(), 20)
	lock, err := flock.Open(filepath.Join(s.RealDir(), base.Path().Base()+".lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if ok, err := lock.Try(flock.Exclusive); !ok || err != nil {
		t.Fatal(ok, err)
	}
	imports, opened := offered(append([]storetest.Object{above, base}, others...))
	waiting := 0
	ctx := activity.With(t.Context(), listener(func(text string) {
		if strings.Contains(text, "waiting for locks") {
			waiting++
		}
	}))
	left := len(others)
	err = s.Import(ctx, imports, store.ImportOptions{Jobs: 1, Done: func(i int, _ *store.Offer, err error) {
		if left--; left == 0 {
			if opened[0].Load()+opened[1].Load() > 0 {
				t.Error("what somebody else makes was fetched, or what refers to it")
			}
			lock.Delete() // as Nix does
			_ = lock.Close()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if waiting != 1 || opened[0].Load() != 1 || opened[1].Load() != 1 {
		t.Errorf("told %d times that it waits", waiting)
	}
	clean(t, s)
}

// Somebody else makes an object valid that we wait for.
func TestImportOfWhatAnotherMakes(t *testing.T) {
	root := testenv.Scratch(t)
	s, other := open(t, local.Options{Root: root}), open(t, local.Options{Root: root})
	o := storetest.File(t, s.Dir(), "a", "a")
	r, w := io.Pipe()
	var all sync.WaitGroup
	all.Go(func() {
		if err := other.Add(t.Context(), o.Info, r, store.AddOptions{}); err != nil {
			t.Error(err)
		}
	})
	if _, err := w.Write(o.NAR[:50]); err != nil { // so it is locked
		t.Fatal(err)
	}
	var once sync.Once
	ctx := activity.With(t.Context(), listener(func(string) {
		once.Do(func() {
			all.Go(func() {
				if _, err := w.Write(o.NAR[50:]); err != nil {
					t.Error(err)
				}
			})
		})
	}))
	imports, opened := offered([]storetest.Object{o})
	if err := s.Import(ctx, imports, store.ImportOptions{}); err != nil {
		t.Error(err)
	}
	all.Wait()
	if n := opened[0].Load(); n != 0 {
		t.Errorf("fetched %d times", n)
	}
}

// An object that cannot be registered is not held against others of its transaction.
func TestImportOfBadDerivation(t *testing.T) {
	s := open(t, local.Options{Root: testenv.Scratch(t)})
	text := `Derive([("out","/nix/store/00000000000000000000000000000000-lie","","")],[],[],"x","/bin/sh",[],[("name","lie"),("out","/nix/store/00000000000000000000000000000000-lie")])`
	drv := storetest.File(t, s.Dir(), "lie.drv", text)
	chain := storetest.Chain(t, s.Dir(), 30)
	above := storetest.File(t, s.Dir(), "above", "above", drv.Path(), chain[3].Path())
	objects := append([]storetest.Object{drv, above}, chain...)
	imports, _ := offered(objects)
	outcome := make([]error, len(imports))
	err := s.Import(t.Context(), imports, store.ImportOptions{Done: func(i int, _ *store.Offer, err error) { outcome[i] = err }})
	if err == nil || outcome[0] == nil || !errors.As(outcome[1], new(*store.DependencyError)) {
		t.Errorf("%v; %v", err, outcome[:2])
	}
	for i := range chain {
		if outcome[2+i] != nil {
			t.Errorf("object %d: %v", i, outcome[2+i])
		}
	}
	clean(t, s)
}

func TestImportChecksSignatures(t *testing.T) {
	key, err := trust.GenerateKey("k-1")
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, local.Options{Root: testenv.Scratch(t), RequireSigs: true, TrustedKeys: trust.Keys{}.WithSecret(key)})
	unsigned := storetest.File(t, s.Dir(), "a", "a").Plain(t, s.Dir(), false)
	signed := storetest.Object{Info: unsigned.Info.Clone(), NAR: unsigned.NAR}
	if err := trust.Sign(signed.Info, s.Dir(), key); err != nil {
		t.Fatal(err)
	}
	stranger := func(o storetest.Object, opened *atomic.Int64) store.Offer {
		offer := o.Offer(opened)
		offer.Trusted = false
		return offer
	}
	var first, second atomic.Int64
	err = s.Import(t.Context(), []store.Import{{Path: unsigned.Path(), Offers: []store.Offer{stranger(unsigned, &first)}}}, store.ImportOptions{})
	if !errors.Is(err, store.ErrNoSignature) || first.Load() > 0 {
		t.Errorf("unsigned: %v", err)
	}
	both := []store.Offer{stranger(unsigned, &first), stranger(signed, &second)}
	err = s.Import(t.Context(), []store.Import{{Path: unsigned.Path(), Offers: both}}, store.ImportOptions{})
	if err != nil || first.Load() > 0 || second.Load() != 1 {
		t.Errorf("signed: %v", err)
	}
}

// Offers that fail in all ways and orders: what has a good one comes, if what it
// refers to does.
func TestImportAnyhow(t *testing.T) {
	objects := storetest.Web(t, storepath.DefaultDir, 60)
	faults := []func(storetest.Object) store.Offer{
		storetest.Object.Unopenable, storetest.Object.Broken, storetest.Object.Cut, storetest.Object.Changed, storetest.Object.Longer,
	}
	for seed := range uint64(25) {
		s := open(t, local.Options{Root: testenv.Scratch(t)})
		dice := rand.New(rand.NewPCG(seed, 0))
		coming := storepath.Set{}
		var imports []store.Import
		for _, o := range objects {
			offers := make([]store.Offer, dice.IntN(4))
			good := false
			for i := range offers {
				if dice.IntN(100) < 50+2*int(seed) {
					offers[i], good = o.Offer(nil), true
				} else {
					offers[i] = faults[dice.IntN(len(faults))](o)
				}
			}
			split := dice.IntN(len(offers) + 1)
			more := offers[split:]
			imports = append(imports, store.Import{Path: o.Path(), Offers: offers[:split], More: func(context.Context, error) []store.Offer {
				next := more
				more = nil
				runtime.Gosched() // others fail meanwhile
				return next
			}})
			if good && !slices.ContainsFunc(o.Info.References, func(r storepath.Path) bool { return !coming.Has(r) }) {
				coming.Add(o.Path())
			}
		}
		dice.Shuffle(len(imports), func(i, j int) { imports[i], imports[j] = imports[j], imports[i] })
		err := s.Import(t.Context(), imports, store.ImportOptions{
			Jobs: 1 + dice.IntN(8),
			Done: func(i int, _ *store.Offer, err error) {
				if (err == nil) != coming.Has(imports[i].Path) {
					t.Errorf("seed %d: %s: %v", seed, imports[i].Path, err)
				}
			},
		})
		if (err == nil) != (len(coming) == len(objects)) {
			t.Errorf("seed %d: %v", seed, err)
		}
		clean(t, s)
	}
}

// What the first offer refers to cannot be had, and the second does without.
func TestImportWithoutWhatIsLost(t *testing.T) {
	s := open(t, local.Options{Root: testenv.Scratch(t)})
	lost := storetest.File(t, s.Dir(), "lost", "lost")
	top := storetest.File(t, s.Dir(), "top", "top").Plain(t, s.Dir(), false)
	onLost := storetest.Object{Info: top.Info.Clone(), NAR: top.NAR}
	onLost.Info.References = []storepath.Path{lost.Path()}
	above := storetest.File(t, s.Dir(), "above", "above", top.Path())
	err := s.Import(t.Context(), []store.Import{
		{Path: lost.Path(), Offers: []store.Offer{lost.Broken()}},
		{Path: top.Path(), Offers: []store.Offer{onLost.Offer(nil), top.Offer(nil)}},
		above.Import(nil),
	}, store.ImportOptions{})
	if !errors.Is(err, storetest.ErrFault) {
		t.Error(err)
	}
	if v, err := s.ValidPaths(t.Context(), []storepath.Path{lost.Path(), top.Path(), above.Path()}); err != nil || len(v) != 2 {
		t.Errorf("%v, %v", v, err)
	}
	clean(t, s)
}

// Canceled at any moment, an import leaves nothing.
func TestCanceledImportLeavesNothing(t *testing.T) {
	objects := storetest.Web(t, storepath.DefaultDir, 120)
	for n := 1; n < len(objects); n += 23 {
		s := open(t, local.Options{Root: testenv.Scratch(t)})
		ctx, cancel := context.WithCancel(t.Context())
		var opened atomic.Int64
		imports, _ := offered(objects)
		for i := range imports {
			offer := &imports[i].Offers[0]
			inner := offer.Open
			offer.Open = func(ctx context.Context) (io.ReadCloser, error) {
				if opened.Add(1) == int64(n) {
					cancel()
				}
				return inner(ctx)
			}
		}
		if err := s.Import(ctx, imports, store.ImportOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled at %d: %v", n, err)
		}
		clean(t, s)
		cancel()
	}
}

// zeros is a NAR of one large file, made while it is read.
func zeros(t *testing.T, name string, size int64) (info *store.PathInfo, open func(context.Context) (io.ReadCloser, error)) {
	t.Helper()
	open = func(context.Context) (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() {
			a := nar.NewWriter(w)
			err := a.Next(nar.Entry{Type: nar.TypeRegular, Size: size})
			for left := size; left > 0 && err == nil; left -= 4096 {
				_, err = a.Write(make([]byte, min(left, 4096)))
			}
			if err == nil {
				err = a.Close()
			}
			w.CloseWithError(err)
		}()
		return r, nil
	}
	r, _ := open(t.Context())
	h := nixhash.SHA256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		t.Fatal(err)
	}
	sum := nixhash.Sum(nixhash.SHA256, h)
	p, err := storepath.DefaultDir.Fingerprint("output:out", sum, name)
	if err != nil {
		t.Fatal(err)
	}
	return &store.PathInfo{Path: p, NarHash: sum, NarSize: uint64(n)}, open
}

// Memory does not grow with what is imported.
func TestImportMemory(t *testing.T) {
	testenv.Long(t)
	s := open(t, local.Options{Root: testenv.Scratch(t)})
	var imports []store.Import
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		info, open := zeros(t, name, 24<<20)
		imports = append(imports, store.Import{Path: info.Path, Offers: []store.Offer{{Info: info, Trusted: true, Open: open}}})
	}
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	most := uint64(0)
	err := s.Import(t.Context(), imports, store.ImportOptions{Done: func(int, *store.Offer, error) {
		runtime.ReadMemStats(&now)
		most = max(most, now.HeapAlloc)
	}})
	if err != nil {
		t.Fatal(err)
	}
	if most > before.HeapAlloc+48<<20 {
		t.Errorf("%d MiB of heap for %d objects of 24 MiB", (most-before.HeapAlloc)>>20, len(imports))
	}
}
