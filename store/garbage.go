package store

import (
	"context"
	"io"
	"math"

	"github.com/strata-nix/strata/storepath"
)

// TempRoots keeps paths alive for somebody: a connection, a command.
type TempRoots interface {
	// Add keeps paths from being collected until Close. It returns when a garbage
	// collection that runs meanwhile knows of them.
	Add(ctx context.Context, paths []storepath.Path) error
	io.Closer
}

// TempRooter gives out TempRoots.
type TempRooter interface {
	// NewTempRoots costs nothing until something is added. The caller closes it.
	NewTempRoots() TempRoots
}

type rootsKey struct{}

// WithTempRoots makes roots those of the caller: what is made valid for it under
// ctx stays until it closes them, and not only until the call is over.
func WithTempRoots(ctx context.Context, roots TempRoots) context.Context {
	return context.WithValue(ctx, rootsKey{}, roots)
}

// TempRootsOf gives the roots of the caller, nil if it has none.
func TempRootsOf(ctx context.Context) TempRoots {
	roots, _ := ctx.Value(rootsKey{}).(TempRoots)
	return roots
}

// RootKeeper makes lasting roots.
type RootKeeper interface {
	// AddIndirectRoot notes that the symlink at the absolute path link is a root.
	AddIndirectRoot(ctx context.Context, link string) error
	// AddPermRoot makes link a symlink to p and a root, and gives its final path.
	AddPermRoot(ctx context.Context, p storepath.Path, link string) (string, error)
}

// Roots maps each root to what keeps it: paths of symlinks, "{temp:<pid>}", …
type Roots map[storepath.Path][]string

// GCAction is what a garbage collection is to do, in the numbers of the worker
// protocol.
type GCAction uint8

// The actions.
const (
	ReturnLive     GCAction = 0
	ReturnDead     GCAction = 1
	DeleteDead     GCAction = 2
	DeleteSpecific GCAction = 3
)

// NoLimit is the MaxFreed of a collection that goes on to the end.
const NoLimit = math.MaxUint64

// GCOptions say what a garbage collection is to do.
type GCOptions struct {
	Action GCAction
	// Paths to delete, with DeleteSpecific: all of them or an error, except that
	// those which are not in the store are passed over.
	Paths []storepath.Path
	// IgnoreLiveness deletes what is alive; what others refer to stays.
	IgnoreLiveness bool
	// SkipAlive passes over those of Paths that are alive, instead of failing.
	SkipAlive bool
	// Referrers deletes, with Paths, all that refers to them.
	Referrers bool
	// MaxFreed stops the deletion of what is dead once more than so many bytes are
	// freed; NoLimit does not. With 0 nothing is looked at or deleted, as in Nix. No more than
	// one object goes beyond it.
	MaxFreed uint64
	// Measure, with ReturnDead, tells how many bytes would be freed: it looks at
	// every file that would go.
	Measure bool
	// Survivors, with ReturnDead, tells of so many of the largest paths that would stay
	// why they do.
	Survivors int
}

// GCResult is what a garbage collection did.
type GCResult struct {
	// Paths that are alive, dead, or deleted, by the action; absolute paths, as
	// there are garbage files that are no store paths.
	Paths []string
	// BytesFreed left the disk, or would, if Measured.
	BytesFreed uint64
	// Measured tells that the store did what Measure asks for; one on the other side of
	// a daemon cannot.
	Measured bool
	// Survivors are the largest paths that stay, largest first.
	Survivors []Survivor
}

// Survivor is a path that is alive.
type Survivor struct {
	Path    storepath.Path
	NarSize uint64
	Why     Reason // the nearest
}

// Reason is one root that keeps a path alive, and how.
type Reason struct {
	// Links are what makes the first path of the chain a root, as in Roots.
	Links []string
	// Chain leads from the root to the path; it is never empty.
	Chain []Step
}

// Step is a path that is kept alive by the one before it.
type Step struct {
	Path storepath.Path
	Via  Edge // "" for the first
}

// Edge says how a path keeps another one alive.
type Edge string

// The edges, by the settings of Nix that make them.
const (
	ByReference       Edge = "reference"
	ByKeepOutputs     Edge = "keep-outputs"     // a derivation keeps its outputs
	ByKeepDerivations Edge = "keep-derivations" // a path keeps its deriver
)

// Explainer tells what keeps paths alive.
type Explainer interface {
	// WhyAlive gives, for each of paths, the roots that reach it, nearest first; only
	// the nearest if nobody wants more. Of a path that a collection would delete it gives none.
	WhyAlive(ctx context.Context, paths []storepath.Path, nearest bool) ([][]Reason, error)
}

// Collector finds roots and deletes what they do not reach.
type Collector interface {
	// FindRoots gives all roots. With censor it hides which processes and links of
	// other users they come from.
	FindRoots(ctx context.Context, censor bool) (Roots, error)
	// CollectGarbage may run together with anything else; two of them wait for each
	// other. After an error it has deleted some of what it would have, and may give a
	// result that says what. An object that cannot be deleted stops nothing, and is an error
	// at the end.
	CollectGarbage(ctx context.Context, o GCOptions) (*GCResult, error)
}

// VerifyOptions say how closely a store is looked at.
type VerifyOptions struct {
	CheckContents bool // hash everything
	Repair        bool // and mend what can be mended
}

// Verifier looks for damage.
type Verifier interface {
	// Verify tells what it finds as warnings and errors of the activity log, and
	// whether anything is (still) wrong at the end.
	Verify(ctx context.Context, o VerifyOptions) (damaged bool, err error)
}

// Optimiser saves space without changing what anybody reads.
type Optimiser interface {
	Optimise(ctx context.Context) error
}
