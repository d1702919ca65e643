package local

import (
	"path/filepath"

	"github.com/strata-nix/strata/builder"
	"github.com/strata-nix/strata/lease"
	"github.com/strata-nix/strata/optimise"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
	"github.com/strata-nix/strata/trust"
)

// Options say where a store is and how it behaves. The fields are the settings
// of upstream's local store and of nix.conf that it obeys, named as there. The
// zero value is the store of this machine, /nix/store.
type Options struct {
	// Dir is the logical store directory ("store"), DefaultDir unless set.
	Dir storepath.Dir
	// Root is a directory that stands before all other paths ("root").
	Root string
	// Real is where the objects are ("real"): Root/nix/store if there is a Root,
	// else Dir.
	Real string
	// State is where the database, locks and roots are ("state"):
	// [Root]/nix/var/nix.
	State string
	// Log is where build logs are ("log"): [Root]/nix/var/log/nix.
	Log string

	// ReadOnly opens the store without writing anything ("read-only"): the database
	// as it is, no locks, no directories made.
	ReadOnly bool
	// RequireSigs refuses objects from outside that no trusted key has signed
	// ("require-sigs").
	RequireSigs bool
	// TrustedKeys are the keys that are believed ("trusted-public-keys").
	TrustedKeys trust.Keys
	// AnswerAge is what a client wants of the answers that substituters remember
	// ("narinfo-cache-positive-ttl", "narinfo-cache-negative-ttl").
	AnswerAge store.AnswerAge

	NoWAL                 bool   // "use-sqlite-wal" is false
	NoSync                bool   // "fsync-metadata" is false
	FsyncStorePaths       bool   // "fsync-store-paths"
	SyncBeforeRegistering bool   // "sync-before-registering"
	BuildUsersGroup       string // "build-users-group": owns the store directory if root opens it
	KeepOutputs           bool   // "keep-outputs", for garbage collections
	DropDerivations       bool   // "keep-derivations" is false
	AutoOptimise          bool   // "auto-optimise-store"
	UseRootsDaemon        bool   // "use-roots-daemon"
	AllowSymlinkedStore   bool   // "allow-symlinked-store"
	CADerivations         bool   // the experimental feature ca-derivations is on
	GitHashing            bool   // the experimental feature git-hashing is on

	// Reflink says whether equal files share blocks instead of an inode.
	Reflink optimise.Reflink

	// Leases is the place in which those who have this store for a lower say what they
	// use of it; nil: there is none. SkipLeases are consumers whose leases keep nothing,
	// and need not be readable.
	Leases     *lease.Place
	SkipLeases []string

	// AutoGC says when garbage is collected without anybody asking.
	AutoGC AutoGC

	// Pool opens the stores that objects come from; nil: there are none.
	Pool *substitute.Pool
	// Substituters are their URIs ("substituters").
	Substituters     []string
	NoSubstitute     bool // "substitute" is false
	Fallback         bool // "fallback"
	SubstitutionJobs int  // "max-substitution-jobs"; 0: substitute.DefaultJobs

	// Build says what is built, and how.
	Build builder.Options

	// URI is what the store calls itself; "local" or what it was opened as.
	URI string
}

// resolved fills in the places that follow from others.
func (o Options) resolved() Options {
	if o.Dir == "" {
		o.Dir = storepath.DefaultDir
	}
	if o.State == "" {
		o.State = filepath.Join(o.Root, "/nix/var/nix")
	}
	if o.Log == "" {
		o.Log = filepath.Join(o.Root, "/nix/var/log/nix")
	}
	if o.Real == "" {
		o.Real = string(o.Dir)
		if o.Root != "" {
			o.Real = filepath.Join(o.Root, "/nix/store")
		}
	}
	if o.URI == "" {
		o.URI = "local"
	}
	return o
}

// RealDir is where the objects of a store with these options are.
func (o Options) RealDir() string { return o.resolved().Real }
