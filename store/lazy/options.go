package lazy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
	// NoProfiles neither notes the order in which files are read, nor fetches ahead by it.
	NoProfiles bool
	// Offline asks no origin anything. What is here is valid as far as it can be
	// believed, and nothing else.
	Offline bool
	// Verify says when contents are compared; "" is VerifyObject.
	Verify Verify
	// Patience is how long a transfer may make no progress before the next origin is tried;
	// 0: DefaultPatience.
	Patience time.Duration
	// Account, if not nil, is called when a transfer begins; what it gives, if not nil, gets the number of
	// bytes that come. The context has the values of the one of the read that the transfer
	// is for, see [fusefs.Caller].
	Account func(context.Context) func(bytes int)
	// Log gets what goes wrong; nil: nobody does.
	Log *slog.Logger
}

// Verify says when contents are compared with what was signed. See doc/formats/strata-toml.md.
type Verify string

// The ways to verify.
const (
	// VerifyObject compares what comes before its first byte is given to anybody: a whole object,
	// or, with a signed index, a file. What is in the cache has been compared.
	VerifyObject Verify = "object"
	// VerifyAlways compares, besides, what is in the cache when a process first reads it, and
	// again when it was changed since. Objects do not graduate.
	VerifyAlways Verify = "always"
	// VerifyStream gives bytes to readers as they come and compares the whole at its end, of objects that cannot be had in
	// parts by a signed index. What turns out to be wrong is refused from then on, but somebody may have read it.
	VerifyStream Verify = "stream"
)

// ParseVerify reads one of the ways; "" is VerifyObject.
func ParseVerify(text string) (Verify, error) {
	switch v := Verify(text); v {
	case "":
		return VerifyObject, nil
	case VerifyObject, VerifyAlways, VerifyStream:
		return v, nil
	}
	return "", fmt.Errorf("'%.40s' is none of \"object\", \"always\" and \"stream\"", text)
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
	var err error
	if o.Verify, err = ParseVerify(string(o.Verify)); err != nil {
		return o, fmt.Errorf("a lazy store's way to verify: %w", err)
	}
	o.Graduate = o.Graduate && o.Verify != VerifyAlways // what is read past us is not compared
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}
