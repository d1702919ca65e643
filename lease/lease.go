package lease

import (
	"fmt"
	"time"

	"github.com/strata-nix/strata/storepath"
)

// Lease is what one consumer has published.
type Lease struct {
	// Consumer is the name under which it is published.
	Consumer string
	// Holder says in words who that is, so that two with one name are noticed.
	Holder string
	// StoreDir is the store directory of the lower.
	StoreDir storepath.Dir
	// Sequence grows with each publication.
	Sequence uint64
	// Published and Expires are by the consumer's clock, in milliseconds.
	Published, Expires time.Time
	// Uses is how many paths of the lower the consumer uses, by its own account:
	// Roots and what they refer to.
	Uses uint64
	// Roots are the hash parts of paths whose closures are to be kept.
	Roots Hashes
}

// State is whether a lease counts.
type State string

// The states. All but Lapsed count.
const (
	Live   State = "live"
	Grace  State = "grace"  // expired, and not for long
	Lapsed State = "lapsed" // its consumer has not been heard of for too long
)

// Counts tells whether a lease in this state keeps anything.
func (s State) Counts() bool { return s != Lapsed }

// State is that of the lease at a time. Clocks may differ by the skew of the terms,
// always in favour of the lease.
func (l *Lease) State(t Terms, now time.Time) State {
	expires := l.Expires
	if longest := l.Published.Add(MaxTerm); expires.After(longest) {
		expires = longest
	}
	now = now.Add(-t.Skew)
	switch {
	case now.Before(expires):
		return Live
	case now.Before(expires.Add(t.Grace)):
		return Grace
	}
	return Lapsed
}

// Terms are what the owner of a place has laid down for its leases.
type Terms struct {
	// StoreDir is the store directory that the leases must be about.
	StoreDir storepath.Dir
	// Term is for how long a lease is published. A consumer renews it after a third of
	// that.
	Term time.Duration
	// Grace is for how long a lease counts after it has expired.
	Grace time.Duration
	// Skew is by how much clocks may differ.
	Skew time.Duration
	// Settle is how long it takes at most until everybody sees what somebody has
	// written: 0 for a local directory and for S3; for NFS twice the time for which
	// attributes of directories are cached (acdirmax, one minute if not set).
	Settle time.Duration
}

// Defaults of the terms, and bounds.
const (
	DefaultTerm  = 72 * time.Hour
	DefaultGrace = 7 * 24 * time.Hour
	DefaultSkew  = 10 * time.Minute
	// MaxTerm is the longest that any lease counts without being renewed, but for
	// the grace period.
	MaxTerm = 366 * 24 * time.Hour
	minTerm = time.Second
)

// withDefaults fills in what is not set. A negative grace or skew means none.
func (t Terms) withDefaults() Terms {
	if t.StoreDir == "" {
		t.StoreDir = storepath.DefaultDir
	}
	def := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
		*d = max(*d, 0)
	}
	def(&t.Term, DefaultTerm)
	def(&t.Grace, DefaultGrace)
	def(&t.Skew, DefaultSkew)
	return t
}

func (t Terms) check() error {
	for _, d := range []struct {
		name     string
		is       time.Duration
		min, max time.Duration
	}{
		{"term", t.Term, minTerm, MaxTerm},
		{"grace", t.Grace, 0, 10 * MaxTerm},
		{"skew", t.Skew, 0, 24 * time.Hour},
		{"settle", t.Settle, 0, 24 * time.Hour},
	} {
		if d.is < d.min || d.is > d.max {
			return fmt.Errorf("the %s of the leases is %s, and must be from %s to %s", d.name, d.is, d.min, d.max)
		}
	}
	return nil
}

// maxName is the most bytes of a consumer's name; files are named after it.
const maxName = 128

// CheckConsumer refuses what cannot be the name of a consumer: letters, digits,
// '-', '_' and '.', the latter not first.
func CheckConsumer(name string) error {
	ok := name != "" && len(name) <= maxName && name[0] != '.' && name[0] != '-'
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			ok = false
		}
	}
	if !ok {
		return fmt.Errorf("'%.80q' cannot name a consumer of leases: use up to %d letters, digits, '-', '_' and '.', not first", name, maxName)
	}
	return nil
}
