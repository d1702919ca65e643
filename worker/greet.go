package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/wire"
)

// greet is the server's half of the handshake.
func (s *session) greet(ctx context.Context) error {
	if magic := s.in.Uint64(); magic != clientMagic {
		if err := s.in.Err(); err != nil {
			return notJustEOF(err)
		}
		return fmt.Errorf("%w: the client began with %#x", ErrProtocol, magic)
	}
	s.out.Uint64(serverMagic)
	s.out.Uint64(uint64(Latest))
	// A client of another major version is told by its number alone.
	s.setVersion(min(Version(s.in.Uint64()&0xffff), Latest))
	if s.in.Err() == nil && s.out.version < MinimumServed {
		err := fmt.Errorf("the Nix client version is too old: it speaks protocol %s, at least %s is needed", s.out.version, MinimumServed)
		s.out.fault(faultOf(err))
		_ = s.out.Flush() // the first error counts
		return fmt.Errorf("%w: %w", ErrTooOld, err)
	}
	if s.out.version >= v1+38 {
		s.features = s.in.features()
		s.out.Strings(features)
	}
	if s.in.Bool() {
		s.in.Uint64() // which CPU to run on; obsolete
	}
	s.in.Uint64() // whether to reserve space; obsolete
	if err := s.in.end(); err != nil {
		return notJustEOF(err)
	}
	if s.out.version >= v1+33 {
		s.out.Text(s.Version)
	}
	if s.out.version >= v1+35 {
		s.out.Uint64(uint64(s.trust(ctx)))
	}
	s.out.Uint64(msgLast)
	return nil
}

func (s *session) setVersion(v Version) {
	s.in.version, s.out.version = v, v
	s.tunnel = newTunnel(s.out.Writer, v)
}

// trust is how far the client is trusted by us and by the store, which may be
// another daemon. A store that does not tell is one that trusts us.
func (s *session) trust(ctx context.Context) store.Trust {
	if !s.Trusted {
		return store.NotTrusted
	}
	t, ok := store.As[store.Truster](s.Store)
	if !ok {
		return store.Trusted
	}
	trust, err := t.Trust(ctx)
	if err != nil {
		s.Log.Warn("the store does not tell whom it trusts", "error", err)
		return store.TrustUnknown
	}
	return trust
}

// features are the extensions that we know.
var features = []string{featureClosure}

// features reads which extensions the other side knows, and gives those that both do.
func (d *decoder) features() (both []string) {
	n := d.Count()
	if n > maxFeatures {
		d.Fail(fmt.Errorf("%w: %d features", wire.ErrFormat, n))
	}
	for range n {
		f := d.TextMax(maxPath)
		if d.Err() != nil {
			return nil
		}
		if slices.Contains(features, f) {
			both = append(both, f)
		}
	}
	return both
}

// among tells whether an operation can be asked for when both sides know these extensions.
func (o *op) among(features []string) bool {
	return o.feature == "" || slices.Contains(features, o.feature)
}

// notJustEOF is for a connection that ends where it should go on.
func notJustEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
