package execute

import (
	"context"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Store is what a build needs of the store that it works on.
type Store interface {
	store.Store
	store.Directory
	// StateDir is where locks, build users and build directories are.
	StateDir() string
	// LogDir is where build logs are.
	LogDir() string
	// Derivation reads a derivation, valid or not.
	Derivation(ctx context.Context, p storepath.Path) (*derivation.Derivation, error)
}
