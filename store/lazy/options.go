package lazy

import (
	"cmp"
	"errors"
	"log/slog"
	"time"

	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// Options say what a lazy store is made of. Cache is needed; all else has defaults.
type Options struct {
	// URI names the store, for people; "lazy" unless set.
	URI string
	// Dir is the store directory; "": the default one. All origins must have the same.
	Dir storepath.Dir
	// Mount is where the objects show, once the mount is served: the store's RealDir.
	Mount string
	// Origins are where objects come from. They stay open when the store is closed.
	Origins []Origin
	// Keys are trusted: what none of them has signed is not valid, unless its origin is
	// trusted or NoSignatures is set.
	Keys         trust.Keys
	NoSignatures bool
	// Cache keeps what was fetched. It stays open when the store is closed.
	Cache *Cache
	// Scope, if not nil, is all that is valid; nil: whatever an origin has.
	Scope *Scope
	// Graduate lets complete objects be read past the mount, from the cache's directory. Everything in there
	// is seen by whoever reads there: the cache must be shared only by stores of the same
	// [TrustDomain].
	Graduate bool
	// NoListings takes trees from NARs and indexes only, and not from listings, which nobody
	// has signed.
	NoListings bool
	// Offline asks no origin anything. What is here is valid as far as it can be
	// believed, and nothing else.
	Offline bool
	// Patience is how long a transfer may make no progress before the next origin is tried;
	// 0: DefaultPatience.
	Patience time.Duration
	// Log gets what goes wrong; nil: nobody does.
	Log *slog.Logger
}

// DefaultPatience is longer than what a cache takes to answer in its worst moments.
const DefaultPatience = 30 * time.Second

func (o Options) withDefaults() (Options, error) {
	if o.Cache == nil {
		return o, errors.New("a lazy store needs a cache")
	}
	o.URI = cmp.Or(o.URI, "lazy")
	o.Dir = cmp.Or(o.Dir, storepath.DefaultDir)
	o.Patience = cmp.Or(o.Patience, DefaultPatience)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}
