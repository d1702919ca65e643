package substitute

import (
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/trust"
)

// DefaultJobs is how many objects are under way at once unless settings say
// otherwise.
const DefaultJobs = 16

// Settings are those of nix.conf that substitution obeys, named as there. The
// zero value has no sources.
type Settings struct {
	// URIs are the sources ("substituters"), in the order in which they were given.
	URIs []string
	// Off asks nobody ("substitute" is false).
	Off bool
	// Fallback goes on as if a source that fails had nothing ("fallback").
	Fallback bool
	// Jobs is how many objects are under way at once ("max-substitution-jobs"); 0:
	// DefaultJobs.
	Jobs int
	// RequireSigs passes over what no key of TrustedKeys has signed ("require-sigs").
	RequireSigs bool
	TrustedKeys trust.Keys
	// AnswerAge is how old answers may be that sources remember of somewhere else
	// ("narinfo-cache-positive-ttl", "narinfo-cache-negative-ttl"), if that is less
	// than they themselves let them be.
	AnswerAge store.AnswerAge
}
