package binarycache_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/narinfo/diskcache"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/storetest"
)

// open makes a store of objects, with what a test changes of the options.
func open(t testing.TB, objects objstore.Store, change func(*binarycache.Options)) *binarycache.Store {
	t.Helper()
	o := binarycache.Options{URI: "test://cache", Compression: compress.None}
	if change != nil {
		change(&o)
	}
	s, err := binarycache.Open(objects, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// directory makes an empty directory for a cache.
func directory(t testing.TB) *objstore.Directory {
	t.Helper()
	d, err := objstore.NewDirectory(filepath.Join(t.TempDir(), "cache"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// without are the abilities that a cache has not.
var without = []string{"add multiple", "add dump", "referrers", "delete", "temporary roots"}

func suite(t *testing.T, open func(t *testing.T) store.Store) {
	t.Helper()
	storetest.Run(t, storetest.Options{Open: open, Without: without})
}

func TestMemory(t *testing.T) {
	suite(t, func(t *testing.T) store.Store { return open(t, objstore.NewMemory(), nil) })
}

// The other methods are tried with fewer objects, see TestSpoiltNARs and
// TestReadStockCaches.
func TestDirectory(t *testing.T) {
	for _, m := range []compress.Method{compress.None, compress.Zstd} {
		t.Run(string(m), func(t *testing.T) {
			suite(t, func(t *testing.T) store.Store {
				return open(t, directory(t), func(o *binarycache.Options) {
					o.Compression, o.WriteListing, o.IndexDebugInfo = m, true, true
				})
			})
		})
	}
}

// Everything that remembers something, together.
func TestRemembering(t *testing.T) {
	suite(t, func(t *testing.T) store.Store {
		disk := diskcache.Open(diskcache.Options{File: filepath.Join(t.TempDir(), "d", "answers.sqlite"), TTL: diskcache.DefaultTTL})
		t.Cleanup(func() { disk.Close() })
		return open(t, directory(t), func(o *binarycache.Options) {
			o.TTL = diskcache.TTL{Positive: time.Hour, Negative: time.Hour}
			o.DiskCache = disk
			o.LocalNarCache = filepath.Join(t.TempDir(), "nars")
			o.Compression = compress.Zstd
		})
	})
}

// With the smallest possible memory.
func TestForgetful(t *testing.T) {
	suite(t, func(t *testing.T) store.Store {
		return open(t, directory(t), func(o *binarycache.Options) {
			o.TTL = diskcache.DefaultTTL
			o.InfoCacheSize = 1
			o.Connections = 1
		})
	})
}
