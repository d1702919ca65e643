package binarycache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/internal/fault"
	"github.com/strata-nix/strata/narinfo/diskcache"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/objstore/objstoretest"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// offer offers an object.
func offer(o storetest.Object) store.Offer {
	return store.Offer{Info: o.Info, From: "test://source", Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(o.Reader()), nil
	}}
}

// outcomes collects what Import tells.
type outcomes struct {
	mu   sync.Mutex
	errs map[int]error
	from map[int]string
}

func (o *outcomes) done(i int, from *store.Offer, err error) {
	if !o.mu.TryLock() {
		panic("told by two at once")
	}
	defer o.mu.Unlock()
	if o.errs == nil {
		o.errs, o.from = map[int]error{}, map[int]string{}
	}
	if _, twice := o.errs[i]; twice {
		panic(fmt.Sprintf("import %d was told twice", i))
	}
	o.errs[i] = err
	if from != nil {
		o.from[i] = from.From
	}
}

// importAll imports and wants an outcome for each import.
func importAll(t *testing.T, s *binarycache.Store, imports []store.Import, o store.ImportOptions) (*outcomes, error) {
	t.Helper()
	got := &outcomes{}
	o.Done = got.done
	err := s.Import(t.Context(), imports, o)
	if len(got.errs) != len(imports) {
		t.Errorf("%d outcomes of %d", len(got.errs), len(imports))
	}
	return got, err
}

// Whatever the order and the number of jobs, at no moment is there a narinfo without
// those of its references.
func TestImportOrder(t *testing.T) {
	for _, jobs := range []int{0, 1, 3} {
		for _, reversed := range []bool{false, true} {
			memory := objstore.NewMemory()
			objects := &fault.Objects{Store: memory}
			s := open(t, objects, nil)
			chain := storetest.Chain(t, s.Dir(), 40)
			of := map[string]storetest.Object{}
			for _, o := range chain {
				of[o.Path().HashPart()+".narinfo"] = o
			}
			objects.Before = func(ctx context.Context, op, name string) error {
				if o, ok := of[name]; ok && op == "put" {
					for _, r := range o.Info.References {
						if _, err := memory.Stat(ctx, r.HashPart()+".narinfo"); err != nil {
							t.Errorf("%s before its reference %s", o.Path(), r)
						}
					}
				}
				return nil
			}
			imports := offers(chain)
			if reversed {
				slices.Reverse(imports)
			}
			imports = append(imports, imports[3]) // twice
			got, err := importAll(t, s, imports, store.ImportOptions{Jobs: jobs})
			if err != nil {
				t.Fatal(err)
			}
			for i := range imports {
				if got.errs[i] != nil || got.from[i] != "test://source" {
					t.Errorf("%d: %v from %q", i, got.errs[i], got.from[i])
				}
			}
			for _, o := range chain {
				if !bytes.Equal(narOf(t, s, o.Path()), o.NAR) {
					t.Errorf("%s is another", o.Path())
				}
			}
		}
	}
}

// Nothing is read of what is there.
func TestImportSkips(t *testing.T) {
	objects := &fault.Objects{Store: objstore.NewMemory()}
	s := open(t, objects, func(o *binarycache.Options) { o.TTL = diskcache.DefaultTTL })
	chain := storetest.Chain(t, s.Dir(), 10)
	if _, err := importAll(t, s, offers(chain[:5]), store.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	var opened atomic.Int32
	imports := offers(chain)
	for i := range imports {
		open := imports[i].Offers[0].Open
		imports[i].Offers[0].Open = func(ctx context.Context) (io.ReadCloser, error) {
			opened.Add(1)
			return open(ctx)
		}
	}
	objects.Calls()
	got, err := importAll(t, s, imports, store.ImportOptions{Jobs: 1})
	if err != nil || opened.Load() != 5 || len(got.from) != 5 {
		t.Errorf("%d opened, %d taken, %v", opened.Load(), len(got.from), err)
	}
	for _, c := range objects.Calls() {
		if strings.HasPrefix(c, "put") && strings.Contains(c, chain[0].Path().HashPart()) {
			t.Errorf("%s", c)
		}
	}
	if _, err := importAll(t, s, imports, store.ImportOptions{}); err != nil || opened.Load() != 5 {
		t.Errorf("all there: %d opened, %v", opened.Load(), err)
	}
	if calls := objects.Calls(); len(calls) != 0 {
		t.Errorf("all there, and known to be: %q", calls)
	}
	// Repair takes them all again.
	if _, err := importAll(t, s, imports, store.ImportOptions{AddOptions: store.AddOptions{Repair: true}}); err != nil || opened.Load() != 15 {
		t.Errorf("repair: %d opened, %v", opened.Load(), err)
	}
}

// An offer that fails, or lies, is no reason to give up.
func TestImportFallsBack(t *testing.T) {
	s := open(t, objstore.NewMemory(), nil)
	o := storetest.Tree(t, s.Dir(), "tree", map[string]string{"a": "1"})
	lie := o
	lie.NAR = bytes.Replace(slices.Clone(o.NAR), []byte("1"), []byte("2"), 1)
	cut := o
	cut.NAR = o.NAR[:len(o.NAR)-30]
	other := o
	other.Info = o.Info.Clone()
	other.Info.Path = node(t, "other")
	down := store.Offer{Info: o.Info, From: "test://down", Open: func(context.Context) (io.ReadCloser, error) { return nil, errors.New("down") }}
	good := offer(o)
	good.From = "test://good"
	im := store.Import{Path: o.Path(), Offers: []store.Offer{down, offer(lie), offer(cut), offer(other), {}}}
	asked := 0
	im.More = func(_ context.Context, err error) []store.Offer {
		if asked++; asked > 1 || err == nil {
			t.Errorf("asked for more: %d, %v", asked, err)
		}
		return []store.Offer{good}
	}
	got, err := importAll(t, s, []store.Import{im}, store.ImportOptions{})
	if err != nil || got.from[0] != "test://good" {
		t.Errorf("%+v, %v", got, err)
	}
	// When nobody has it, everything that went wrong is told.
	im.Path, im.More = node(t, "nobody"), nil
	_, err = importAll(t, s, []store.Import{im, {Path: node(t, "none")}}, store.ImportOptions{})
	if err == nil || strings.Count(err.Error(), "copying '") != 5 || !strings.Contains(err.Error(), "nobody has") {
		t.Errorf("%v", err)
	}
}

// What cannot be had takes along what refers to it, and nothing else.
func TestImportDependencies(t *testing.T) {
	for _, jobs := range []int{1, 8} {
		s := open(t, objstore.NewMemory(), nil)
		chain := storetest.Chain(t, s.Dir(), 6)
		free := storetest.File(t, s.Dir(), "free", "free")
		dangling := storetest.File(t, s.Dir(), "dangling", "x", node(t, "nowhere"))
		imports := offers(append(slices.Clone(chain), free, dangling))
		imports[2].Offers[0].Open = func(context.Context) (io.ReadCloser, error) { return nil, errors.New("down") }
		got, err := importAll(t, s, imports, store.ImportOptions{Jobs: jobs})
		if err == nil || strings.Contains(err.Error(), "chain-3") || !strings.Contains(err.Error(), "chain-2") || !errors.Is(err, store.ErrNotValid) {
			t.Errorf("%v", err)
		}
		for i := range imports {
			_, follows := errors.AsType[*store.DependencyError](got.errs[i])
			if (got.errs[i] != nil) != (i >= 2 && i != 6) || follows != (i > 2 && i < 6) {
				t.Errorf("%d: %v", i, got.errs[i])
			}
			v, err := s.ValidPaths(t.Context(), []storepath.Path{imports[i].Path})
			if err != nil || len(v) == 1 != (got.errs[i] == nil) {
				t.Errorf("%d: %v, valid: %v, %v", i, got.errs[i], v, err)
			}
		}
		// And again, with what was missing.
		imports[2] = offers(chain)[2]
		if _, err := importAll(t, s, imports[:7], store.ImportOptions{Jobs: jobs}); err != nil {
			t.Error(err)
		}
	}
}

// A cycle, which there cannot be, does not hang.
func TestImportCycle(t *testing.T) {
	s := open(t, objstore.NewMemory(), nil)
	a := storetest.File(t, s.Dir(), "a", "a").Plain(t, s.Dir(), false)
	b := storetest.File(t, s.Dir(), "b", "b", a.Path()).Plain(t, s.Dir(), false)
	a.Info.References = []storepath.Path{b.Path()}
	c := storetest.File(t, s.Dir(), "c", "c")
	got, err := importAll(t, s, offers([]storetest.Object{a, b, c}), store.ImportOptions{})
	if err == nil || !strings.Contains(err.Error(), "cycle") || got.errs[2] != nil || got.errs[0] == nil || got.errs[1] == nil {
		t.Errorf("%v, %v", got.errs, err)
	}
}

// One narinfo that makes no sense fails its own object only.
func TestImportIntoDamagedCache(t *testing.T) {
	objects := objstore.NewMemory()
	s := open(t, objects, nil)
	chain := storetest.Chain(t, s.Dir(), 4)
	free := storetest.File(t, s.Dir(), "free", "free")
	bad := chain[1].Path().HashPart() + ".narinfo"
	objstoretest.Put(t, objects, bad, "garbage")
	got, err := importAll(t, s, offers(append(chain, free)), store.ImportOptions{})
	if !errors.Is(err, binarycache.ErrBadFile) || !strings.Contains(err.Error(), bad) {
		t.Errorf("%v", err)
	}
	if got.errs[0] != nil || got.errs[1] == nil || got.errs[2] == nil || got.errs[3] == nil || got.errs[4] != nil {
		t.Errorf("%v", got.errs)
	}
}

// A storage that fails leaves no narinfo behind whose object is not there.
func TestImportFaults(t *testing.T) {
	full := errors.New("disk is full")
	for n := range 30 {
		memory := objstore.NewMemory()
		calls := 0
		var mu sync.Mutex
		objects := &fault.Objects{Store: memory, Before: func(_ context.Context, op, _ string) error {
			mu.Lock()
			defer mu.Unlock()
			if op != "put" {
				return nil
			}
			if calls++; calls > n {
				return full
			}
			return nil
		}}
		s := open(t, objects, func(o *binarycache.Options) { o.WriteListing = true })
		chain := storetest.Chain(t, s.Dir(), 4)
		err := s.Import(t.Context(), offers(chain), store.ImportOptions{Jobs: 2})
		if (err != nil) != (n < 13) || err != nil && !errors.Is(err, full) {
			t.Fatalf("%d: %v", n, err)
		}
		again := open(t, memory, nil)
		for p, err := range again.AllPaths(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			narOf(t, again, p)
			if _, err := store.Closure(t.Context(), again, []storepath.Path{p}); err != nil {
				t.Errorf("%d: %v", n, err)
			}
		}
		if err := again.Import(t.Context(), offers(chain), store.ImportOptions{}); err != nil {
			t.Errorf("%d: once more: %v", n, err)
		}
	}
}

func TestImportCanceled(t *testing.T) {
	s := open(t, objstore.NewMemory(), nil)
	chain := storetest.Chain(t, s.Dir(), 50)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	imports := offers(chain)
	imports[20].Offers[0].Open = func(ctx context.Context) (io.ReadCloser, error) {
		cancel(stop)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := s.Import(ctx, imports, store.ImportOptions{}); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	if err := s.Import(t.Context(), offers(chain), store.ImportOptions{}); err != nil {
		t.Errorf("once more: %v", err)
	}
}

// Two that want the same fetch it once.
func TestImportTogether(t *testing.T) {
	s := open(t, objstore.NewMemory(), nil)
	chain := storetest.Chain(t, s.Dir(), 20)
	var mu sync.Mutex
	opened := map[int]int{}
	imports := offers(chain)
	for i := range imports {
		open := imports[i].Offers[0].Open
		imports[i].Offers[0].Open = func(ctx context.Context) (io.ReadCloser, error) {
			mu.Lock()
			opened[i]++
			mu.Unlock()
			return open(ctx)
		}
	}
	// The first object comes when all have asked.
	const n = 4
	begun := make(chan struct{}, n)
	first := imports[0].Offers[0].Open
	wait := sync.OnceFunc(func() {
		for range n {
			<-begun
		}
	})
	var wg sync.WaitGroup
	imports[0].Offers[0].Open = func(ctx context.Context) (io.ReadCloser, error) {
		wait()
		return first(ctx)
	}
	for range n {
		wg.Go(func() {
			begun <- struct{}{}
			if err := s.Import(t.Context(), imports, store.ImportOptions{Jobs: 2}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, k := range opened {
		if k != 1 {
			t.Errorf("object %d was fetched %d times", i, k)
		}
	}
}

// Everything that is written is signed, and keeps the signatures that it had.
func TestSigning(t *testing.T) {
	key, err := trust.GenerateKey("cache-1")
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, objstore.NewMemory(), func(o *binarycache.Options) { o.Keys = []trust.SecretKey{key} })
	a := storetest.File(t, s.Dir(), "a", "a")
	a.Info = a.Info.Clone()
	a.Info.Signatures = []store.Signature{"old-1:AAAA"}
	b := storetest.File(t, s.Dir(), "b", "b", a.Path())
	if err := s.Add(t.Context(), a.Info, a.Reader(), store.AddOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Import(t.Context(), offers([]storetest.Object{b}), store.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	keys := trust.Keys{}.WithSecret(key)
	for _, o := range []storetest.Object{a, b} {
		info, err := store.PathInfoOf(t.Context(), s, o.Path())
		if err != nil || keys.CountValid(info, s.Dir()) != 1 || len(info.Signatures) != len(o.Info.Signatures)+1 {
			t.Errorf("%+v, %v", info, err)
		}
	}
	if len(a.Info.Signatures) != 1 {
		t.Errorf("the caller's info was changed: %v", a.Info.Signatures)
	}
	r := &store.Realisation{ID: store.DrvOutput{DrvHash: nixhash.Of(nixhash.SHA256, "drv"), Output: "out"}, OutPath: a.Path(), Signatures: []store.Signature{"old-1:AAAA"}}
	if err := s.RegisterRealisations(t.Context(), []*store.Realisation{r}); err != nil {
		t.Fatal(err)
	}
	none := store.DrvOutput{DrvHash: nixhash.Of(nixhash.SHA256, "drv"), Output: "dev"}
	rs, err := s.Realisations(t.Context(), []store.DrvOutput{none, r.ID})
	if err != nil || rs[0] != nil || keys.CountValidRealisation(rs[1]) != 1 || len(rs[1].Signatures) != 2 || len(r.Signatures) != 1 {
		t.Errorf("%+v, %v", rs, err)
	}
}

func TestRealisationLies(t *testing.T) {
	objects := objstore.NewMemory()
	s := open(t, objects, nil)
	r := &store.Realisation{ID: store.DrvOutput{DrvHash: nixhash.Of(nixhash.SHA256, "drv"), Output: "out"}, OutPath: node(t, "x")}
	if err := s.RegisterRealisations(t.Context(), []*store.Realisation{r}); err != nil {
		t.Fatal(err)
	}
	other := r.ID
	other.Output = "dev"
	name := "realisations/" + other.String() + ".doi"
	for _, text := range []string{objstoretest.Get(t, objects, "realisations/"+r.ID.String()+".doi"), "", "{}", strings.Repeat(" ", 2<<20)} {
		objstoretest.Put(t, objects, name, text)
		if rs, err := s.Realisations(t.Context(), []store.DrvOutput{other}); !errors.Is(err, binarycache.ErrBadFile) || !strings.Contains(err.Error(), name) {
			t.Errorf("%.30q: %+v, %v", text, rs, err)
		}
	}
	r.ID = other
	if err := s.RegisterRealisations(t.Context(), []*store.Realisation{r}); err != nil {
		t.Errorf("over what is broken: %v", err)
	}
}

func TestLogs(t *testing.T) {
	for _, m := range []string{"", "br", "xz"} {
		objects := objstore.NewMemory()
		s := open(t, objects, func(o *binarycache.Options) { o.LogCompression = compress.Method(m) })
		drv := node(t, "x.drv")
		if _, err := s.BuildLog(t.Context(), drv); !errors.Is(err, store.ErrNoLog) {
			t.Errorf("%v", err)
		}
		text := strings.Repeat("building…\n", 50_000)
		if err := s.AddBuildLog(t.Context(), drv, io.MultiReader(strings.NewReader(text))); err != nil {
			t.Fatal(err)
		}
		log, err := s.BuildLog(t.Context(), drv)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(log)
		if err != nil || string(got) != text || log.Close() != nil {
			t.Errorf("%q: %d bytes, %v", m, len(got), err)
		}
		if i, err := objects.Stat(t.Context(), "log/"+drv.Base()); err != nil || i.ContentEncoding != m {
			t.Errorf("%+v, %v", i, err)
		}
	}
	if err := open(t, directory(t), func(o *binarycache.Options) { o.LogCompression = "br" }).AddBuildLog(t.Context(), node(t, "x.drv"), strings.NewReader("x")); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a directory cannot note how a log is compressed: %v", err)
	}
}

func TestDebugInfo(t *testing.T) {
	objects := objstore.NewMemory()
	s := open(t, objects, func(o *binarycache.Options) { o.IndexDebugInfo = true })
	id := strings.Repeat("0a", 20)
	o := storetest.Tree(t, s.Dir(), "x-debug", map[string]string{
		"lib/debug/.build-id/0a/" + id[2:] + ".debug": "dwarf",
		"lib/debug/.build-id/0a/short.debug":          "",
		"lib/debug/.build-id/zz/" + id[2:] + ".debug": "",
		"lib/other/.build-id/0a/" + id[2:] + ".debug": "",
	})
	if err := s.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{}); err != nil {
		t.Fatal(err)
	}
	infos, err := s.NarInfos(t.Context(), []storepath.Path{o.Path()})
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"archive":"../%s","member":"lib/debug/.build-id/0a/%s.debug"}`, infos[0].URL, id[2:])
	if got := objstoretest.Get(t, objects, "debuginfo/"+id); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	n := 0
	for range objects.List(t.Context(), "debuginfo") {
		n++
	}
	if n != 1 {
		t.Errorf("%d links", n)
	}
}

// Signatures that two add at the same time are both there.
func TestAddSignaturesTogether(t *testing.T) {
	s := open(t, objstore.NewMemory(), func(o *binarycache.Options) { o.TTL = diskcache.TTL{Positive: time.Hour} })
	o := storetest.File(t, s.Dir(), "x", "x")
	if err := s.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			if err := s.AddSignatures(t.Context(), o.Path(), []store.Signature{store.Signature(fmt.Sprintf("k%d:AAAA", i))}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if info, err := store.PathInfoOf(t.Context(), s, o.Path()); err != nil || len(info.Signatures) != 10 {
		t.Errorf("%+v, %v", info, err)
	}
}
