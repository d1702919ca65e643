package sandbox

import "context"

// Abilities are what this machine can do for builds.
type Abilities struct {
	// Isolation is nil if builders can be isolated, or an [*UnavailableError].
	Isolation error
	// Cgroups is nil if builds can have control groups of their own.
	Cgroups error
	// Landlock tells whether builders with the network are kept from each other's
	// abstract sockets.
	Landlock bool
	// Bwrap is the path of bubblewrap.
	Bwrap string
}

// Probe finds out by trying, which takes some milliseconds.
func Probe(ctx context.Context) Abilities { return Abilities{} }

// Weaker says in a sentence, for a warning, what builds lack that run without isolation.
func (a Abilities) Weaker(user *User) string { return "" }
