package substitute

import "github.com/strata-nix/strata/store"

// Source is a store that objects are taken from.
type Source struct {
	Store store.Store
	// Name is the URI without its parameters: what people get to read.
	Name string
	// Priority orders sources, lower comes first.
	Priority int
	// MassQuery tells that the source can be asked about many paths that it probably
	// does not have.
	MassQuery bool
	// Trusted tells that its objects need no signatures.
	Trusted bool
}
