package lazy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/strata-nix/strata/storepath"
)

// TrustDomain names what a store believes: stores of the same domain may share a cache, as
// each of them would take what any other one has fetched. It follows from the options that decide
// about that: the store directory, the keys, which origins are trusted, and the scope, so that
// whoever may see only a part of a cache does not see what others have fetched.
func TrustDomain(o Options) string {
	h := sha256.New()
	dir := o.Dir
	if dir == "" {
		dir = storepath.DefaultDir
	}
	fmt.Fprintf(h, "dir %s\n", dir)
	if o.NoSignatures {
		fmt.Fprintf(h, "signatures do not matter\n")
	}
	for _, k := range o.Keys.Strings() {
		fmt.Fprintf(h, "key %s\n", k)
	}
	var uris []string
	for _, from := range o.Origins {
		if from.Trusted || o.NoSignatures {
			uris = append(uris, from.Store.URI())
		}
	}
	slices.Sort(uris)
	for _, uri := range slices.Compact(uris) {
		fmt.Fprintf(h, "origin %q\n", uri)
	}
	if o.Scope != nil {
		fmt.Fprintf(h, "scope %s\n", o.Scope.id())
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// id tells scopes apart.
func (sc *Scope) id() string {
	h := sha256.New()
	if sc.roots != nil {
		for _, p := range storepath.SortUnique(slices.Clone(sc.roots)) {
			fmt.Fprintf(h, "root %s\n", p)
		}
		return hex.EncodeToString(h.Sum(nil))
	}
	for _, p := range sc.set.Sorted() {
		fmt.Fprintf(h, "%s\n", p)
	}
	return hex.EncodeToString(h.Sum(nil))
}
