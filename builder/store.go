package builder

import (
	"context"

	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
)

// Store is the store in which things are built.
type Store interface {
	store.Store
	store.Directory
	store.NarSource
	store.OutputQuerier
	store.RealisationQuerier
	store.RealisationRegistrar
	store.DumpAdder
	store.TempRooter
	// Derivation reads a derivation, valid or not.
	Derivation(ctx context.Context, p storepath.Path) (*derivation.Derivation, error)
	// Hasher hashes derivations whose inputs are valid.
	Hasher() *derivation.Hasher
	// StateDir is where locks and roots are; LogDir where build logs are.
	StateDir() string
	LogDir() string
}

// Executor builds one derivation whose inputs are valid and whose outputs are
// locked.
type Executor interface {
	// Build runs the builder and registers the outputs. That the build failed is a
	// result. When ctx ends, the builder and all its children are killed, and nothing
	// of it stays.
	Build(ctx context.Context, job *execute.Job) (*store.BuildResult, error)
}

// Substituter gets objects from elsewhere. [substitute.Engine] is one.
type Substituter interface {
	Plan(ctx context.Context, wanted []substitute.Wanted) (*substitute.Plan, error)
	Substitute(ctx context.Context, wanted []substitute.Wanted, o substitute.Options) ([]substitute.Result, error)
	Substitutables(ctx context.Context, wanted []substitute.Wanted) ([]*store.Substitutable, error)
	Realisations(ctx context.Context, ids []store.DrvOutput) ([]*store.Realisation, error)
	SubstituteRealisations(ctx context.Context, ids []store.DrvOutput, o substitute.Options) ([]substitute.Result, []*store.Realisation, error)
}

// View is a store as one client sees it.
type View struct {
	Store Store
	// Substituter is nil if there are no substituters, or the client wants none.
	Substituter Substituter
	Options     Options
	// Writable, if not nil, is asked before a build writes anything; its error is
	// the answer. (That the store directory is mounted, and is there.)
	Writable func() error
}
