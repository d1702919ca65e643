package cacheserver

import (
	"crypto/tls"
	"log/slog"
	"runtime"
	"time"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/trust"
)

// Defaults of Options.
const (
	DefaultPriority       = 30
	DefaultMaxConnections = 4096
	DefaultDrainTimeout   = 30 * time.Second
	DefaultHeaderTimeout  = 10 * time.Second
	DefaultIdleTimeout    = 2 * time.Minute
	DefaultStallTimeout   = time.Minute
)

// Options say what is served, and how. Store is needed; the zero value of all
// else is useful.
type Options struct {
	// Store is served. It must have the abilities store.HashPartQuerier and one of
	// store.NarSource and store.NarOpener; others are used if it has them. It
	// belongs to the caller.
	Store store.Store
	// Keys sign every narinfo and realisation, besides the signatures that the
	// store has. Whoever believes them believes all that is in the store.
	Keys []trust.SecretKey
	// Priority is what clients are told; DefaultPriority if 0. Lower comes first.
	Priority int
	// NoMassQuery tells clients not to ask for many paths that may not be there.
	NoMassQuery bool
	// Compression is that of the NARs that narinfos name; none if empty. All others
	// can be had, too.
	Compression compress.Method
	// CompressionLevel is that of Compression, nil for the method's own.
	CompressionLevel *int
	// Encode compresses NARs for clients that say Accept-Encoding: zstd, unless
	// they ask for a range. It does not show in narinfos.
	Encode bool
	// MaxCompressions are under way at once, four for each processor if 0, as some
	// clients are slow. More requests wait.
	MaxCompressions int
	// TLS, if not nil, is spoken on all listeners.
	TLS *tls.Config
	// MaxConnections are open at once, DefaultMaxConnections if 0. More wait in the
	// kernel's queue.
	MaxConnections int
	// HeaderTimeout is how long a client may take for its request, DefaultHeaderTimeout
	// if 0.
	HeaderTimeout time.Duration
	// IdleTimeout is how long a connection is kept without a request,
	// DefaultIdleTimeout if 0.
	IdleTimeout time.Duration
	// StallTimeout is how long a client may take for the next 64 KiB of an answer,
	// DefaultStallTimeout if 0.
	StallTimeout time.Duration
	// DrainTimeout is how long requests that are under way at the end may go on,
	// DefaultDrainTimeout if 0.
	DrainTimeout time.Duration
	// Log gets failures, and each request at the level of debugging. nil: nothing
	// is logged.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	or := func(d *time.Duration, otherwise time.Duration) {
		if *d <= 0 {
			*d = otherwise
		}
	}
	or(&o.HeaderTimeout, DefaultHeaderTimeout)
	or(&o.IdleTimeout, DefaultIdleTimeout)
	or(&o.StallTimeout, DefaultStallTimeout)
	or(&o.DrainTimeout, DefaultDrainTimeout)
	if o.Priority == 0 {
		o.Priority = DefaultPriority
	}
	if o.Compression == "" {
		o.Compression = compress.None
	}
	if o.MaxCompressions <= 0 {
		o.MaxCompressions = 4 * runtime.GOMAXPROCS(0)
	}
	if o.MaxConnections <= 0 {
		o.MaxConnections = DefaultMaxConnections
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}
