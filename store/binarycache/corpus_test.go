package binarycache_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/registration"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/storepath"
)

// corpus makes imports of the objects of the small corpus.
func corpus(t *testing.T) []store.Import {
	t.Helper()
	dir, file := testenv.Corpus(t)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var imports []store.Import
	for info, err := range registration.Read(f, storepath.DefaultDir) {
		if err != nil {
			t.Fatal(err)
		}
		tree := filepath.Join(dir, storepath.DefaultDir.Print(info.Path))
		imports = append(imports, store.Import{Path: info.Path, Offers: []store.Offer{{Info: info, From: dir,
			Open: func(ctx context.Context) (io.ReadCloser, error) {
				r, w := io.Pipe()
				go func() { w.CloseWithError(nar.Dump(ctx, w, tree)) }()
				return r, nil
			}}}})
	}
	return imports
}

// Real objects go from cache to cache, through all methods, and into a stock store.
func TestCorpus(t *testing.T) {
	testenv.Long(t)
	imports := corpus(t)
	nix := testenv.Nix(t, "2.34")
	nix.Configure(t, "require-sigs = false")
	for i, m := range []compress.Method{compress.None, compress.Gzip, compress.Brotli, compress.XZ, compress.Zstd} {
		objects, err := objstore.NewDirectory(filepath.Join(nix.Dir, fmt.Sprint("cache-", i)))
		if err != nil {
			t.Fatal(err)
		}
		s := open(t, objects, func(o *binarycache.Options) {
			o.Compression, o.WriteListing, o.IndexDebugInfo, o.CompressionLevel = m, true, true, new(1)
		})
		if _, err := importAll(t, s, imports, store.ImportOptions{}); err != nil {
			t.Fatal(m, err)
		}
		if got := allPaths(t, s); len(got) != len(imports) {
			t.Errorf("%s: %d paths, want %d", m, len(got), len(imports))
		}
		// The next cache is filled from this one.
		for j := range imports {
			info, err := store.PathInfoOf(t.Context(), s, imports[j].Path)
			if err != nil {
				t.Fatal(err)
			}
			if want := imports[j].Offers[0].Info; info.NarHash != want.NarHash || info.NarSize != want.NarSize || info.Deriver != want.Deriver {
				t.Errorf("%s: %+v, want %+v", m, info, want)
			}
			imports[j].Offers = []store.Offer{{Info: info, From: s.URI(), Open: func(ctx context.Context) (io.ReadCloser, error) {
				return s.OpenNar(ctx, info.Path)
			}}}
		}
	}
	var all []string
	for _, im := range imports {
		all = append(all, storepath.DefaultDir.Print(im.Path))
	}
	nix.Run(t, "nix", append([]string{"copy", "--from", "file://" + filepath.Join(nix.Dir, "cache-4")}, all...)...)
	nix.Run(t, "nix-store", append([]string{"--verify-path"}, all...)...)
}
