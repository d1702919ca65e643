package merge

import (
	"errors"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

var (
	// ErrExists says that there is something at the target already.
	ErrExists = errors.New("exists already")
	// ErrBusy says that somebody else is writing the same target.
	ErrBusy = errors.New("is being written by another process")
)

// Conflict is a path that layers have with different contents.
type Conflict struct {
	Path  storepath.Path
	First string // the layer whose object is taken
	Other string
	Want  nixhash.Hash // of the first
	Got   nixhash.Hash
}
