package binarycache

import (
	"context"
	"runtime"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/narinfo/diskcache"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Store is a binary cache. It is for any number of goroutines.
type Store struct {
	objects objstore.Store
	o       Options
	known   *memory             // answers, in this process
	disk    *diskcache.Answers  // answers, of this user; may be nil
	nars    *objstore.Directory // local-nar-cache; may be nil
	asking  chan struct{}       // a place for each narinfo request under way
	flights flights             // of these
	packing chan struct{}       // a place for each NAR that is being compressed
	large   chan struct{}       // a place for each of those that are large
	meta    meta
	signing lock // for who reads, changes and writes a file
	packs   packs
	whole   wholeOnly // whether files can be read in parts
}

// The abilities.
var _ interface {
	store.Store
	store.Lister
	store.InfoLister
	store.NarOpener
	store.NarSource
	store.Adder
	store.Importer
	store.Advertiser
	store.DownloadSizer
	store.SignatureAdder
	store.LogQuerier
	store.LogAdder
	store.RealisationQuerier
	store.RealisationRegistrar
	store.HashPartQuerier
	store.Truster
} = (*Store)(nil)

// Open makes a store of the objects of a binary cache. It looks at the options
// and not at the cache, see the package comment. objects must stay usable as long as the
// store is.
func Open(objects objstore.Store, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{
		objects: objects, o: o,
		known:   newMemory(o.InfoCacheSize, o.TTL),
		asking:  make(chan struct{}, o.Connections),
		packing: make(chan struct{}, packsAtOnce(o.Compression)),
		large:   make(chan struct{}, max(2, runtime.GOMAXPROCS(0))),
		meta:    meta{turn: newLock()},
		signing: newLock(),
	}
	if o.DiskCache != nil {
		s.disk = o.DiskCache.Of(o.URI, o.Dir)
	}
	if o.LocalNarCache != "" {
		if s.nars, err = objstore.NewDirectory(o.LocalNarCache); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// packsAtOnce is how many NARs are compressed at once: xz takes a hundred MB each. With zstd it is tens of MB for large
// ones, whose tables drive each other out of the processors' caches, so that as many as there are processors are quicker
// than more; small ones take little, and may be far away.
func packsAtOnce(m compress.Method) int {
	if m == compress.XZ {
		return max(2, runtime.GOMAXPROCS(0))
	}
	return defaultJobs
}

// Dir is the store directory.
func (s *Store) Dir() storepath.Dir { return s.o.Dir }

// URI is that of the options.
func (s *Store) URI() string { return s.o.URI }

// Close does nothing: what the store uses belongs to others.
func (s *Store) Close() error { return nil }

// Trust is that of the options.
func (s *Store) Trust(context.Context) (store.Trust, error) { return s.o.Trust, nil }
