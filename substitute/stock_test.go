package substitute_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
	"github.com/strata-nix/strata/trust"
)

// openFileCache opens "file://…".
func openFileCache(_ context.Context, uri string) (store.Store, error) {
	ref, err := store.ParseReference(uri)
	if err != nil {
		return nil, err
	}
	objects, err := objstore.NewDirectory(ref.Authority)
	if err != nil {
		return nil, err
	}
	return binarycache.Open(objects, binarycache.Options{URI: uri, Existing: true})
}

// stockCache is a signed cache that stock Nix has written of objects.
func stockCache(t *testing.T, params string, objects []storetest.Object) (cache string, keys trust.Keys) {
	t.Helper()
	nix := testenv.Nix(t, "2.34")
	s, err := local.Open(t.Context(), local.Options{Root: nix.Dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddMultiple(t.Context(), &storetest.Source{Objects: objects}, store.AddOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	nix.Configure(t, "experimental-features = nix-command", "substituters =")
	secret := nix.Run(t, "nix", "key", "generate-secret", "--key-name", "stock-1")
	key, err := trust.ParseSecretKey(strings.TrimSpace(secret))
	if err != nil {
		t.Fatal(err)
	}
	cache = filepath.Join(nix.Dir, "cache")
	file := nix.WriteFile(t, "secret", strings.TrimSpace(secret))
	nix.Run(t, "nix", "copy", "--all", "--no-check-sigs", "--to", "file://"+cache+"?secret-key="+file+params)
	return cache, trust.Keys{}.WithSecret(key)
}

// stockObjects are built ones, which need signatures, and addressed ones.
func stockObjects(t *testing.T) []storetest.Object {
	t.Helper()
	objects := storetest.Web(t, dir, 60)
	for i := range 5 {
		o := storetest.Tree(t, dir, "built", map[string]string{
			"bin/run": strings.Repeat(string(rune('a'+i)), 100_000), "share/doc/a/b": "text",
		}, objects[50+i].Path()).Plain(t, dir, i%2 == 0)
		objects = append(objects, o)
	}
	return objects
}

// A cache that stock Nix wrote fills a store in which stock Nix finds nothing wrong.
func TestStockCache(t *testing.T) {
	objects := stockObjects(t)
	for _, params := range []string{"", "&compression=zstd", "&compression=none", "&compression=br&write-nar-listing=true"} {
		t.Run("xz"+params, func(t *testing.T) {
			cache, keys := stockCache(t, params, objects)
			nix := testenv.Nix(t, "2.34")
			pool := substitute.NewPool(openFileCache)
			s, err := local.Open(t.Context(), local.Options{
				Root: nix.Dir, Pool: pool, Substituters: []string{"file://" + cache}, RequireSigs: true, TrustedKeys: keys,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			w := &world{t: t, dest: s}
			for _, got := range w.substitute(t.Context(), pathsOf(objects)...) {
				if got.Status != store.Substituted {
					t.Errorf("%+v", got)
				}
			}
			w.has(objects...)
			nix.Run(t, "nix-store", "--verify", "--check-contents")
			refs := strings.Fields(nix.Run(t, "nix-store", "--query", "--requisites", dir.Print(objects[64].Path())))
			closure, err := store.Closure(t.Context(), s, []storepath.Path{objects[64].Path()})
			if err != nil || len(closure) != len(refs) {
				t.Errorf("a closure of %d paths, stock says %d; %v", len(closure), len(refs), err)
			}
			if err := pool.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A cache that has been damaged gives nothing wrong, and a second one what is missing.
func TestDamagedStockCache(t *testing.T) {
	objects := stockObjects(t)
	bad, keys := stockCache(t, "&compression=none", objects)
	files, err := filepath.Glob(filepath.Join(bad, "nar", "*.nar"))
	if err != nil || len(files) < len(objects)/2 {
		t.Fatal(files, err)
	}
	for i, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		switch i % 4 {
		case 0:
			err = os.Remove(file)
		case 1:
			err = os.WriteFile(file, text[:len(text)/2], 0o600)
		case 2:
			text[len(text)/2] ^= 0x10
			err = os.WriteFile(file, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	good, more := stockCache(t, "", objects)
	for _, second := range []bool{false, true} {
		uris := []string{"file://" + bad + "?priority=1"}
		trusted := keys
		if second {
			uris, trusted = append(uris, "file://"+good), more // the same name
		}
		pool := substitute.NewPool(openFileCache)
		s, err := local.Open(t.Context(), local.Options{Root: testenv.Scratch(t), Pool: pool, Substituters: uris, RequireSigs: !second, TrustedKeys: trusted})
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, dest: s}
		came := 0
		for _, got := range w.substitute(t.Context(), pathsOf(objects)...) {
			if got.Status.OK() {
				came++
			}
		}
		if second != (came == len(objects)) || came != w.valid(pathsOf(objects)...) {
			t.Errorf("with a second cache %v: %d of %d came", second, came, len(objects))
		}
		if damaged, err := s.Verify(t.Context(), store.VerifyOptions{CheckContents: true}); err != nil || damaged {
			t.Errorf("%v, %v", damaged, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A stock process and we substitute the same into one store at the same moment.
func TestBesideStockNix(t *testing.T) {
	objects := stockObjects(t)
	cache, keys := stockCache(t, "", objects)
	nix := testenv.Nix(t, "2.34")
	nix.Configure(t, "substituters = file://"+cache, "trusted-public-keys = "+strings.Join(keys.Strings(), " "))
	inside := nix.WithBind(cache, cache)
	var tops []string
	for _, o := range objects[60:] {
		tops = append(tops, dir.Print(o.Path()))
	}
	pool := substitute.NewPool(openFileCache)
	s, err := local.Open(t.Context(), local.Options{
		Root: nix.Dir, Pool: pool, Substituters: []string{"file://" + cache}, RequireSigs: true, TrustedKeys: keys,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := &world{t: t, dest: s}
	for range 3 {
		var both sync.WaitGroup
		both.Go(func() {
			out, err := inside.Command(t.Context(), "nix-store", append([]string{"--realise"}, tops...)...).CombinedOutput()
			if err != nil {
				t.Errorf("stock: %v\n%s", err, out)
			}
		})
		both.Go(func() {
			for _, got := range w.substitute(t.Context(), pathsOf(objects[60:])...) {
				if !got.Status.OK() {
					t.Errorf("%+v", got)
				}
			}
		})
		both.Wait()
		w.has(objects[60:]...)
		nix.Run(t, "nix-store", "--verify", "--check-contents")
		nix.Run(t, "nix-store", "--gc")
		if n := w.valid(pathsOf(objects)...); n != 0 {
			t.Errorf("%d objects are left", n)
		}
	}
}
