package check

import (
	"context"
	"io"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// Target is what is checked: the parts that a store hands over.
type Target struct {
	URI string
	Dir storepath.Dir
	// RealDir is where the objects of all layers show.
	RealDir string
	// StateDir has the locks and roots of the first layer.
	StateDir string
	// Layers are those of a layered store, the upper first. A plain store has one.
	Layers []Layer
	// Mount is what is to be mounted at RealDir; nil: nothing, or nobody knows.
	Mount *overlayfs.Expected
	// TrustedKeys are those whose signatures are compared.
	TrustedKeys trust.Keys
	// ReadOnly tells that nothing may be written, not even a lock taken.
	ReadOnly bool
	Tools    Tools
	// More looks for what only those know who use this package.
	More []Source
}

// Layer is one layer of a target.
type Layer struct {
	Name string
	// Dir has the objects of this layer alone.
	Dir string
	// Store answers for the layer alone.
	Store store.Querier
	// DB is the layer's database. Without one the layer is only asked about what the
	// upper has; so is a layer that is not checked itself.
	DB *nixdb.DB
	// StateDir has the layer's temporary roots, "" if that is not known.
	StateDir string
	// Gone tells that nobody can look at the layer, which is told by one of [Target.More]: what it has is
	// not known, and nothing is concluded from its absence. All but the name is empty.
	Gone bool
}

// Source looks for findings that no class of the table looks for by itself. Their codes
// must be in the table.
type Source func(ctx context.Context, found func(*Finding)) error

// Tools are how the store is mended. Each may be nil, and then nobody can do that.
type Tools struct {
	// Lock keeps others from making a path; there is no unlock if somebody else has it.
	Lock func(ctx context.Context, p storepath.Path) (unlock func(), err error)
	// Add reads a NAR, puts the object in place whatever is there, and registers it. It
	// must be that of info.
	Add func(ctx context.Context, info *store.PathInfo, nar io.Reader) error
	// Fetch gets an object from a substituter that has it with the contents of info. An error
	// that is no [store.ErrInconclusive] says that none has it.
	Fetch func(ctx context.Context, info *store.PathInfo) error
	// Rebuild builds the derivation anew that makes a path.
	Rebuild func(ctx context.Context, info *store.PathInfo) error
	// Ensure makes a path valid.
	Ensure func(ctx context.Context, p storepath.Path) error
	// Adopt gives paths rows in the first layer that only lower ones have.
	Adopt func(ctx context.Context, paths []storepath.Path) error
	// Lean tells those who keep lower layers' objects that the first layer is about to need
	// those of paths; its error keeps that from happening.
	Lean func(ctx context.Context, paths []storepath.Path) error
	// Reregister writes down what follows from the object of a valid path.
	Reregister func(ctx context.Context, p storepath.Path) error
	// Remove deletes entries of the store directory from the first layer, and makes show
	// what lower layers have under their names.
	Remove func(ctx context.Context, names []string) error
	// Refresh makes show what lower layers have.
	Refresh func(ctx context.Context) error
}

// Options say how closely to look, and what to do then. The zero value looks at names,
// rows and everything else that is no content, in all layers, and changes nothing.
type Options struct {
	// Contents compares the contents of all objects, their metadata and signatures too.
	Contents bool
	// Layers are the names or numbers (0 is the first) of those to check; nil: all.
	Layers []string
	// Repair mends what can be mended without losing anything; with OnlyDamage only
	// what is of that severity.
	Repair, OnlyDamage bool
	// Drop gives objects up that nobody can get, with all that refers to them. Ask, if
	// not nil, is asked about each otherwise.
	Drop bool
	Ask  func(ctx context.Context, f *Finding, referrers []storepath.Path) (bool, error)
	// Forget makes paths invalid whose objects are gone and that nothing refers to,
	// also without Repair, as Nix does.
	Forget bool
	// Resume goes on with a check of contents that was interrupted.
	Resume bool
	// Keep is how many findings of a class are kept in memory; DefaultKeep if 0. A
	// repair of more than that takes several rounds.
	Keep int
	// Found, if not nil, hears of each finding when it is made, and of it again when it
	// was mended. One call at a time.
	Found func(ctx context.Context, f *Finding)
}

// DefaultKeep is [Options.Keep] unless set.
const DefaultKeep = 10_000

// Checker is a store that can be checked.
type Checker interface {
	// Check compares what the store says with what is there. The error is for what
	// kept it from looking at all; what it could not look at is in the report.
	Check(ctx context.Context, o Options) (*Report, error)
}
