package execute

import (
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Job is one derivation that is to be built here and now.
type Job struct {
	// DrvPath is the name under which the derivation is built, logged and kept as
	// deriver. It need not be valid.
	DrvPath storepath.Path
	// Drv is resolved: outputs of other derivations stand among its InputSrcs, and
	// no placeholder of them is left in it.
	Drv  *derivation.Basic
	Mode store.BuildMode
	// Inputs are the infos of the closure of InputSrcs, in no particular order, all
	// of it valid and kept from being collected.
	Inputs []*store.PathInfo
	// Hashes are those of the derivation modulo its inputs, by output: the ids of
	// its realisations.
	Hashes map[string]nixhash.Hash
	// Outputs are what was known of each output when its lock was taken.
	Outputs map[string]Output
	// Roots gets the paths that only the build tells, before anything is there.
	Roots store.TempRoots
}

// Output is what is known of an output before the build.
type Output struct {
	// Path is where it is or will be; zero if only the build can tell, which is so
	// for all outputs of impure derivations.
	Path storepath.Path
	// Valid tells that it is there. Such an output is not touched, except in the
	// modes repair, where it is replaced unless Intact, and check.
	Valid bool
	// Intact tells that its contents have been compared with its hash.
	Intact bool
}
