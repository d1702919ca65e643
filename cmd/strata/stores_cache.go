package main

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/narinfo/diskcache"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/trust"
)

// cacheOptions reads the parameters that all binary caches have.
func (c *config) cacheOptions(p *params) binarycache.Options {
	p.ignore("trusted", "system-features") // the former is for who takes objects from there
	return binarycache.Options{
		Dir:                 c.storeDir(p),
		URI:                 store.Reference{Scheme: p.ref.Scheme, Authority: p.ref.Authority}.String(),
		Priority:            p.optional("priority", p.number),
		WantMassQuery:       p.optionalFlag("want-mass-query"),
		InfoCacheSize:       c.infoCacheSize(p),
		Connections:         c.network.connections,
		LocalNarCache:       p.path("local-nar-cache", ""),
		Compression:         p.compression("compression"),
		CompressionLevel:    p.level("compression-level"),
		ParallelCompression: p.flag("parallel-compression", false),
		WriteListing:        p.flag("write-nar-listing", false),
		WriteIndex:          p.flag("write-file-index", false),
		Seekable:            p.flag("seekable", false),
		IndexDebugInfo:      p.flag("index-debug-info", false),
		Keys:                p.secretKeys("secret-key", "secret-keys"),
	}
}

// infoCacheSize is that of the parameter path-info-cache-size, of which 0 means
// none.
func (c *config) infoCacheSize(p *params) int {
	n := p.number("path-info-cache-size", binarycache.DefaultInfoCacheSize)
	if n == 0 {
		return -1
	}
	return n
}

// openFileCache opens a binary cache in a directory.
func openFileCache(_ context.Context, c *config, ref store.Reference) (store.Store, error) {
	p := newParams(ref)
	o := c.cacheOptions(p)
	o.Trust = store.Trusted
	// Others may write there, and asking is cheap.
	o.TTL = diskcache.TTL{Positive: c.network.ttl.Positive, Meta: c.network.ttl.Meta}
	if !filepath.IsAbs(ref.Authority) {
		p.failf("the directory of store '%s' is not an absolute path", ref)
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	objects, err := objstore.NewDirectory(filepath.Clean(ref.Authority))
	if err != nil {
		return nil, &usageError{err}
	}
	return binarycache.Open(objects, o)
}

// remoteCache adds what is common to the caches that are reached over a network.
func (c *config) remoteCache(p *params, o *binarycache.Options) {
	o.TTL = c.network.ttl
	o.DiskCache = c.network.disk()
	o.InfoCompression = p.compression("narinfo-compression")
	o.ListingCompression = p.compression("ls-compression")
	o.LogCompression = p.compression("log-compression")
}

// compression gives a parameter that is a compression method, "" if it is not
// there.
func (p *params) compression(name string) compress.Method {
	text := p.text(name, "")
	if text == "" {
		return ""
	}
	m, err := compress.Parse(text)
	if err != nil {
		p.fail(name, "has value '%s': %v", text, err)
	}
	return m
}

// level gives a parameter that is a compression level, nil for the method's own.
func (p *params) level(name string) *int {
	if n := p.number(name, compress.DefaultLevel); n != compress.DefaultLevel {
		return &n
	}
	return nil
}

// optional gives a parameter that counts only if it is there.
func (p *params) optional(name string, get func(string, int) int) *int {
	n := get(name, 0)
	if p.text(name, "") == "" {
		return nil
	}
	return &n
}

// optionalFlag likewise.
func (p *params) optionalFlag(name string) *bool {
	b := p.flag(name, false)
	if p.text(name, "") == "" {
		return nil
	}
	return &b
}

// secretKeys reads the keys of a parameter that names a file, and of one that
// names several with commas between them.
func (p *params) secretKeys(one, many string) []trust.SecretKey {
	var keys []trust.SecretKey
	read := func(name, file string) {
		key, err := readSecretKey(file)
		if err != nil {
			p.fail(name, "cannot be used: %v", err)
			return
		}
		keys = append(keys, key)
	}
	if file := p.path(one, ""); file != "" {
		read(one, file)
	}
	for file := range strings.SplitSeq(p.text(many, ""), ",") {
		if file != "" {
			read(many, file)
		}
	}
	return keys
}
