package worker

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// LegacyClient is a store on a machine on which `nix-store --serve --write` can be
// started: that of ssh:// URIs. It has the abilities that the older protocol can
// express.
type LegacyClient struct {
	dial Dialer
	o    LegacyClientOptions
	pool *pool
}

// LegacyClientOptions are like [ClientOptions].
type LegacyClientOptions struct {
	Dir            storepath.Dir
	URI            string
	MaxConnections int // 1 if 0, as in Nix
	Build          LegacyOptions
}

var _ interface {
	store.Store
	store.Adder
	store.NarSource
	store.Builder
	store.DerivationBuilder
} = (*LegacyClient)(nil)

// NewLegacyClient connects to the other side.
func NewLegacyClient(ctx context.Context, dial Dialer, o LegacyClientOptions) (*LegacyClient, error) {
	if o.Dir == "" {
		o.Dir = storepath.DefaultDir
	}
	c := &LegacyClient{dial: dial, o: o}
	c.pool = newPool(max(o.MaxConnections, 1), 0, c.connect)
	k, err := c.pool.get(ctx)
	if err != nil {
		return nil, err
	}
	c.pool.put(k)
	return c, nil
}

// Dir implements store.Store.
func (c *LegacyClient) Dir() storepath.Dir { return c.o.Dir }

// URI implements store.Store.
func (c *LegacyClient) URI() string { return c.o.URI }

// Close implements store.Store.
func (c *LegacyClient) Close() error {
	c.pool.close()
	return nil
}

// Trust implements store.Truster: who is let in by ssh may do everything.
func (c *LegacyClient) Trust(context.Context) (store.Trust, error) { return store.TrustUnknown, nil }

func (c *LegacyClient) connect(ctx context.Context) (*conn, error) {
	k, err := newConn(ctx, c.dial, c.o.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to '%s': %w", c.o.URI, err)
	}
	k.in.version, k.out.version = legacyForms, legacyForms
	if err := k.during(ctx, k.legacyGreet); err != nil {
		k.close()
		return nil, fmt.Errorf("cannot open connection to remote store '%s': %w", c.o.URI, err)
	}
	return k, nil
}

// legacyGreet is the client's half of the handshake.
func (k *conn) legacyGreet() error {
	k.out.Uint64(legacyClientMagic)
	k.out.Uint64(uint64(LegacyLatest))
	if err := k.out.Flush(); err != nil {
		return err
	}
	if magic := k.in.Uint64(); k.in.Err() == nil && magic != legacyServerMagic {
		return fmt.Errorf("%w: the server began with %#x", ErrProtocol, magic)
	}
	theirs := k.in.Uint64()
	if err := k.in.Err(); err != nil {
		return err
	}
	if theirs>>8 != uint64(LegacyLatest>>8) || theirs < uint64(LegacyMinimumUsed) {
		return fmt.Errorf("%w: 'nix-store --serve' protocol version %d.%d not supported", ErrProtocol, theirs>>8, theirs&0xff)
	}
	k.legacy = min(LegacyVersion(theirs), LegacyLatest)
	return nil
}

// with lends a connection to f, which performs an operation. As the protocol has no
// errors, one that fails is not used again.
func (c *LegacyClient) with(ctx context.Context, f func(*conn) error) error {
	k, err := c.pool.get(ctx)
	if err != nil {
		return err
	}
	defer c.pool.put(k)
	err = k.during(ctx, func() error {
		err := f(k)
		if err == nil {
			err = k.in.end()
		}
		return err
	})
	k.broken = k.broken || err != nil
	return err
}

// ask sends a request.
func (k *conn) legacyAsk(number uint64, send func(*encoder)) error {
	k.out.Uint64(number)
	send(k.out)
	return k.out.Flush()
}

// ValidPaths implements store.Querier.
func (c *LegacyClient) ValidPaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	return c.validPaths(ctx, paths, false, false)
}

// Prepare gives those of paths that are valid on the other side, which keeps them
// from now on until the connection ends. With substitute it first tries to get the
// others from its own substituters.
func (c *LegacyClient) Prepare(ctx context.Context, paths []storepath.Path, substitute bool) ([]storepath.Path, error) {
	return c.validPaths(ctx, paths, true, substitute)
}

func (c *LegacyClient) validPaths(ctx context.Context, paths []storepath.Path, lock, substitute bool) ([]storepath.Path, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	valid := storepath.Set{}
	err := c.with(ctx, func(k *conn) error {
		err := k.legacyAsk(legacyQueryValidPaths, func(e *encoder) {
			e.Bool(lock)
			e.Bool(substitute)
			e.paths(paths)
		})
		if err == nil {
			valid = storepath.NewSet(k.in.paths()...)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []storepath.Path
	for _, p := range paths {
		if valid.Has(p) {
			out = append(out, p)
		}
	}
	return out, nil
}

// PathInfos implements store.Querier.
func (c *LegacyClient) PathInfos(ctx context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	found := map[storepath.Path]*store.PathInfo{}
	asked := storepath.NewSet(paths...)
	err := c.with(ctx, func(k *conn) error {
		if err := k.legacyAsk(legacyQueryPathInfos, func(e *encoder) { e.paths(paths) }); err != nil {
			return err
		}
		for {
			p := k.in.optPath()
			if p.IsZero() {
				return nil
			}
			if !asked.Has(p) {
				return fmt.Errorf("%w: an answer about '%s', which was not asked for", ErrProtocol, p)
			}
			found[p] = k.in.legacyInfo(p)
			if found[p].NarHash.IsZero() {
				return fmt.Errorf("%w: no NAR hash of '%s'", ErrProtocol, p)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]*store.PathInfo, len(paths))
	for i, p := range paths {
		out[i] = found[p]
	}
	return out, nil
}

// NarFromPath implements store.NarSource.
func (c *LegacyClient) NarFromPath(ctx context.Context, p storepath.Path, w io.Writer) error {
	return c.with(ctx, func(k *conn) error {
		if err := k.legacyAsk(legacyDumpStorePath, func(e *encoder) { e.path(p) }); err != nil {
			return err
		}
		_, err := nar.Copy(w, k.below)
		return err
	})
}

// Add implements store.Adder.
func (c *LegacyClient) Add(ctx context.Context, info *store.PathInfo, archive io.Reader, o store.AddOptions) error {
	if err := keep(ctx, o, info.Path); err != nil {
		return err
	}
	if valid, err := c.ValidPaths(ctx, []storepath.Path{info.Path}); err != nil || len(valid) > 0 {
		return err
	}
	return c.with(ctx, func(k *conn) error {
		k.out.Uint64(legacyAddToStoreNar)
		k.out.legacyUpload(info)
		if _, err := nar.Copy(k.out, archive); err != nil {
			return err
		}
		if err := k.out.Flush(); err != nil {
			return err
		}
		return k.legacyDone("failed to add path '" + c.o.Dir.Print(info.Path) + "' to '" + c.o.URI + "'")
	})
}

// legacyDone reads the answer that says nothing but that it is done.
func (k *conn) legacyDone(otherwise string) error {
	if n := k.in.Uint64(); k.in.Err() == nil && n != 1 {
		return errors.New(otherwise)
	}
	return k.in.Err()
}

// BuildPaths implements store.Builder. The other side tells no more than whether
// all went well; so all targets have the same result.
func (c *LegacyClient) BuildPaths(ctx context.Context, targets []derivation.DerivedPath, mode store.BuildMode) ([]*store.BuildResult, error) {
	if err := c.onlyNormal("buildPaths", mode); err != nil {
		return nil, err
	}
	for _, t := range targets {
		if t.IsOpaque() && t.Path.IsDerivation() || len(t.Through) > 0 {
			return nil, &store.UnsupportedError{Op: "asking for '" + t.String() + "'", Store: c.o.URI, Why: "the serve protocol has no words for it"}
		}
	}
	var status uint64
	var message string
	err := c.with(ctx, func(k *conn) error {
		err := k.legacyAsk(legacyBuildPaths, func(e *encoder) {
			e.derivedPaths(targets)
			e.legacyOptions(c.o.Build, k.legacy)
		})
		if err != nil {
			return err
		}
		if status = k.in.Uint64(); status != 0 && k.in.Err() == nil {
			message = k.in.Text()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	results := make([]*store.BuildResult, len(targets))
	for i, t := range targets {
		results[i] = &store.BuildResult{Path: t, Status: store.Built}
		if status != 0 {
			results[i] = &store.BuildResult{Path: t, Status: store.MiscFailure, Message: message, ExitStatus: status}
		}
	}
	return results, nil
}

func (c *LegacyClient) onlyNormal(op string, mode store.BuildMode) error {
	if mode == store.BuildNormal {
		return nil
	}
	return &store.UnsupportedError{Op: op, Store: c.o.URI, Why: "the serve protocol can neither check nor repair"}
}

// BuildDerivation implements store.DerivationBuilder.
func (c *LegacyClient) BuildDerivation(ctx context.Context, drv storepath.Path, b *derivation.Basic, mode store.BuildMode) (result *store.BuildResult, err error) {
	if err := c.onlyNormal("buildDerivation", mode); err != nil {
		return nil, err
	}
	err = c.with(ctx, func(k *conn) error {
		k.out.Uint64(legacyBuildDerivation)
		k.out.path(drv)
		if err := derivation.WriteBasic(k.out.Writer, c.o.Dir, b); err != nil {
			return err
		}
		k.out.legacyOptions(c.o.Build, k.legacy)
		if err := k.out.Flush(); err != nil {
			return err
		}
		result = k.in.legacyResult(k.legacy)
		return nil
	})
	if result != nil {
		result.Path = derivation.DerivedPath{Path: drv, Outputs: []string{derivation.AllOutputs}}
	}
	return result, err
}
