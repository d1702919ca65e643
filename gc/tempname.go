package gc

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// TempName is the entry of a store directory in which objects are unpacked. It is spelled as a
// store path so that a temporary root keeps it from every collector, Nix's included. A name
// like those of Nix's own temporary directories, "tmp-…" and a lock, does not: Nix looks
// whether it can have the lock, lets go of it, and deletes. Who locks the directory in between
// loses what is in it.
const TempName = tempPrefix + tempSuffix

const (
	tempPrefix = "00000000000000000000000000000000-strata"
	tempSuffix = ".tmp"
)

// UpperTempName is the same of the store with an upper layer. It is one of its own, since the
// merged directory also shows what is being unpacked in the lowers: who works there would have
// a copy of that directory in the upper, and leave a whiteout that hides it.
func UpperTempName(layer string) string {
	sum := sha256.Sum256([]byte(layer))
	return tempPrefix + "-" + hex.EncodeToString(sum[:8]) + tempSuffix
}

// IsTempName tells whether an entry of a store directory is one of these.
func IsTempName(name string) bool {
	return strings.HasPrefix(name, tempPrefix) && strings.HasSuffix(name, tempSuffix)
}
