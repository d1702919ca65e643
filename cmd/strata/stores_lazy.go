package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/userns"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/storepath"
)

// lazyStore is a lazy store with all that was opened for it.
type lazyStore struct {
	*lazy.Store
	cache   *lazy.Cache
	origins []lazy.Origin
}

// Close closes everything.
func (s *lazyStore) Close() error {
	var err error
	if s.cache != nil {
		err = s.cache.Close()
	}
	for _, o := range s.origins {
		err = errors.Join(err, o.Store.Close())
	}
	return err
}

// openLazy opens a store whose objects arrive when they are read. Whether its mount is served is
// no business of this process.
func openLazy(ctx context.Context, c *config, ref store.Reference) (_ store.Store, err error) {
	return c.openLazy(ctx, ref)
}

func (c *config) openLazy(ctx context.Context, ref store.Reference) (_ *lazyStore, err error) {
	p := newParams(ref)
	p.ignore(generalParams...)
	o := lazy.Options{
		URI: ref.String(), Dir: c.storeDir(p), Mount: p.path("real", ""),
		Keys: c.local.TrustedKeys, NoSignatures: !p.flag("require-sigs", c.local.RequireSigs),
		Scope: c.lazyScope(p), Graduate: p.flag("graduate", false), NoListings: !p.flag("listings", true), Offline: p.flag("offline", false), NoProfiles: !p.flag("profiles", true),
		Patience: time.Duration(p.number("patience", 0)) * time.Second,
		Account:  c.account,
		Log:      c.log,
	}
	if o.Verify, err = lazy.ParseVerify(p.text("verify", "")); err != nil {
		p.fail("verify", "has value %v", err)
	}
	cache := c.lazyCache(p, o.Dir)
	froms := p.texts("from")
	if len(froms) == 0 {
		p.failf("store '%s' needs at least one parameter 'from': the URI of a binary cache", ref)
	}
	refs := make([]store.Reference, len(froms))
	for i, uri := range froms {
		var rerr error
		if refs[i], rerr = parseReference(uri); rerr != nil {
			p.fail("from", "has value '%s': %v", uri, rerr)
		} else if refs[i].Scheme == "lazy" {
			p.fail("from", "has value '%s', which is lazy itself", uri)
		}
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	s := &lazyStore{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, from := range refs {
		origin, err := c.lazyOrigin(ctx, from, o.Dir)
		if err != nil {
			return nil, fmt.Errorf("cannot open '%s': %w", from, err)
		}
		s.origins = append(s.origins, origin)
	}
	o.Origins = s.origins
	// Others who keep objects in there may believe what we do not.
	cache.Pool, cache.Dir = cache.Dir, filepath.Join(cache.Dir, lazy.TrustDomain(o))
	if s.cache, err = lazy.OpenCache(cache); err != nil {
		return nil, err
	}
	o.Cache = s.cache
	s.Store, err = lazy.Open(o)
	return s, err
}

// lazyOrigin opens one of the stores that objects come from.
func (c *config) lazyOrigin(ctx context.Context, ref store.Reference, dir storepath.Dir) (lazy.Origin, error) {
	p := newParams(ref)
	origin := lazy.Origin{Trusted: p.flag("trusted", false), Priority: p.optional("priority", p.number)}
	if len(p.errs) > 0 {
		return origin, &usageError{errors.Join(p.errs...)}
	}
	if ref.Param("store") == "" && dir != c.dir {
		params := map[string][]string{"store": {string(dir)}}
		for k, v := range ref.Params {
			params[k] = v
		}
		ref.Params = params
	}
	var err error
	origin.Store, err = c.open(ctx, ref)
	return origin, err
}

// lazyCache reads the parameters of the cache on disk.
func (c *config) lazyCache(p *params, dir storepath.Dir) lazy.CacheOptions {
	place := c.lazyCacheDir()
	o := lazy.CacheOptions{
		Dir: p.path("cache", place), StoreDir: dir,
		MaxBytes: p.bytes("cache-size", 0), MinFree: p.bytes("cache-min-free", 0),
		MaxAge: time.Duration(p.bytes("cache-age", 0)) * time.Second,
		Log:    c.log,
	}
	if o.Dir == "" {
		p.failf("store '%s' needs a parameter 'cache': the directory for what is fetched", p.ref)
	}
	return o
}

// systemLazyCache is where root keeps objects.
const systemLazyCache = "/var/cache/strata/lazy"

// lazyCacheDir is where objects are kept unless somebody says otherwise; "" if there is no
// such place. Who is root of a user namespace alone has his own.
func (c *config) lazyCacheDir() string {
	if os.Geteuid() == 0 && (userns.OuterUID(0) == 0 || mayMake(systemLazyCache)) {
		return systemLazyCache
	}
	if dir := environment(os.LookupEnv).cacheDir(); dir != "" {
		return filepath.Join(dir, "lazy")
	}
	return ""
}

// mayMake tells whether a directory can be made, or be written to if it is there.
func mayMake(dir string) bool {
	for {
		err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK, unix.AT_EACCESS)
		if !errors.Is(err, unix.ENOENT) || dir == "/" {
			return err == nil
		}
		dir = filepath.Dir(dir)
	}
}

// lazyScope reads which paths are valid; nil: all that the caches have.
func (c *config) lazyScope(p *params) *lazy.Scope {
	dir := c.storeDir(p)
	pinned, manifest := p.texts("pinned"), p.path("manifest", "")
	switch {
	case len(pinned) > 0 && manifest != "":
		p.failf("store '%s' has both 'pinned' and 'manifest'; use one of them", p.ref)
	case manifest != "":
		text, err := os.ReadFile(manifest)
		if err == nil {
			var sc *lazy.Scope
			if sc, err = lazy.ParseManifest(manifest, dir, text); err == nil {
				return sc
			}
		}
		p.fail("manifest", "cannot be used: %v", err)
	case len(pinned) > 0:
		roots := make([]storepath.Path, len(pinned))
		for i, text := range pinned {
			var err error
			if roots[i], err = dir.Parse(text); err != nil {
				p.fail("pinned", "has value '%s': %v", text, err)
			}
		}
		return lazy.ClosureScope(roots...)
	}
	return nil
}
