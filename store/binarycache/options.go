package binarycache

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/narinfo/diskcache"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// Defaults of the settings, which are Nix's.
const (
	DefaultCompression   = compress.XZ
	DefaultInfoCacheSize = 65536
	DefaultConnections   = 25
)

// Options are the settings of a binary cache, named as in Nix. They must not be
// changed once the store is open.
type Options struct {
	// URI names the cache, for people and as the key of DiskCache: without
	// parameters, unless it is another cache without them.
	URI string
	// Dir is the store directory ("store"); "": the default one. A cache that is for
	// another one cannot be used.
	Dir storepath.Dir
	// Existing makes it an error to read from a cache that has no nix-cache-info.
	// Without it that is an empty cache. The first write makes one in any case.
	Existing bool
	// Trust is how far the cache trusts whoever uses it: whoever can write to a
	// directory can do anything, and of servers one does not know.
	Trust store.Trust

	// Priority and WantMassQuery ("want-mass-query"), if not nil, count for more than
	// what the cache says.
	Priority      *int
	WantMassQuery *bool

	// TTL is for how long answers are kept in memory. Zero asks anew each time, but for
	// nix-cache-info, which then is asked for once. In a directory, where asking costs
	// little and others write, remember what is there and not what is not.
	TTL diskcache.TTL
	// InfoCacheSize is how many answers are kept in memory ("path-info-cache-size");
	// 0: the default, negative: none.
	InfoCacheSize int
	// DiskCache, if not nil, keeps answers for longer, and for others. It stays open
	// when the store is closed.
	DiskCache *diskcache.Cache
	// Connections is how many requests for narinfos are under way at once
	// ("http-connections"); 0: the default.
	Connections int
	// LocalNarCache is a directory for NARs that were read, in full; "": none
	// ("local-nar-cache").
	LocalNarCache string

	// Compression is how NARs are written ("compression"); "": the default.
	Compression compress.Method
	// CompressionLevel is nil for the method's own ("compression-level").
	CompressionLevel *int
	// ParallelCompression compresses one NAR with several threads
	// ("parallel-compression").
	ParallelCompression bool
	// InfoCompression, ListingCompression and LogCompression are how small files are
	// written, "" not at all ("narinfo-compression", "ls-compression",
	// "log-compression"). The storage must be able to note it.
	InfoCompression, ListingCompression, LogCompression compress.Method
	// WriteListing writes a listing beside each narinfo ("write-nar-listing").
	WriteListing bool
	// WriteIndex writes a file index beside each narinfo, signed by Keys ("write-file-index").
	WriteIndex bool
	// Seekable writes NARs in pieces that can be decompressed each by itself ("seekable"). That needs zstd, which then is
	// the default, or no compression.
	Seekable bool
	// IndexDebugInfo writes where debug information is to be found, by build id
	// ("index-debug-info").
	IndexDebugInfo bool
	// Keys sign what is written ("secret-key", "secret-keys").
	Keys []trust.SecretKey
}

// withDefaults checks the options and fills in what is not set.
func (o Options) withDefaults() (Options, error) {
	if o.URI == "" {
		return o, errors.New("a binary cache needs a URI")
	}
	o.Dir = cmp.Or(o.Dir, storepath.DefaultDir)
	if o.Seekable && o.Compression == "" {
		o.Compression = compress.Zstd
	}
	o.Compression = cmp.Or(o.Compression, DefaultCompression)
	if o.Seekable && o.Compression != compress.Zstd && o.Compression != compress.None {
		return o, fmt.Errorf("binary cache '%s': seekable NARs are compressed by zstd or not at all, and not by %s", o.URI, o.Compression)
	}
	o.InfoCacheSize = cmp.Or(o.InfoCacheSize, DefaultInfoCacheSize)
	o.Connections = cmp.Or(max(o.Connections, 0), DefaultConnections)
	for _, m := range []compress.Method{o.Compression, o.InfoCompression, o.ListingCompression, o.LogCompression} {
		if m == "" {
			continue
		}
		if _, err := compress.Parse(string(m)); err != nil {
			return o, fmt.Errorf("binary cache '%s': %w", o.URI, err)
		}
	}
	if o.LocalNarCache != "" && !filepath.IsAbs(o.LocalNarCache) {
		return o, fmt.Errorf("binary cache '%s': local-nar-cache '%s' is not absolute", o.URI, o.LocalNarCache)
	}
	return o, nil
}

// level is the compression level for NARs.
func (o *Options) level() int {
	if o.CompressionLevel == nil {
		return compress.DefaultLevel
	}
	return *o.CompressionLevel
}
