package builder

import (
	"context"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Store is the store in which things are built.
type Store interface {
	store.Store
	store.Directory
	store.OutputQuerier
	store.RealisationQuerier
	store.RealisationRegistrar
	store.DumpAdder
	store.TempRooter
	// Derivation reads a derivation, valid or not.
	Derivation(ctx context.Context, p storepath.Path) (*derivation.Derivation, error)
	// StateDir is where locks and roots are; LogDir where build logs are.
	StateDir() string
	LogDir() string
}

// Executor builds one derivation whose inputs are valid.
type Executor interface {
	// Build runs the builder and registers the outputs. That the build failed is a
	// result. When ctx ends, the builder and all its children are killed, and nothing
	// of it stays.
	Build(ctx context.Context, job *Job) (*store.BuildResult, error)
}

// Job is a derivation that can be built at once.
type Job struct {
	// DrvPath is the name under which the derivation is built, logged and kept as
	// deriver. It need not be valid.
	DrvPath storepath.Path
	// Drv is what is built: all of its inputs are InputSrcs.
	Drv *derivation.Basic
	// Inputs are the infos of the closure of its inputs, in no particular order.
	Inputs []*store.PathInfo
	// Hashes are those of the derivation modulo its inputs, by output: the ids of
	// its realisations.
	Hashes map[string]nixhash.Hash
	// Outputs are what is known of the outputs, by name.
	Outputs map[string]Output
	Mode    store.BuildMode
	// Roots keep what the build makes from being collected.
	Roots store.TempRoots
}

// Output is what is known of an output before the build.
type Output struct {
	// Path is where it is or will be; zero if only the build can tell.
	Path storepath.Path
	// Valid tells that it is there. Such an output is not touched, except in the
	// modes repair, where it is replaced unless Intact, and check.
	Valid bool
	// Intact tells that its contents have been compared with its hash.
	Intact bool
}
