package optimise

import (
	"crypto/rand"
	"strconv"
	"strings"

	"github.com/strata-nix/strata/storepath"
)

// tempName is what the names of temporary links begin with, behind the hash part. They are
// spelled as store paths, since the collector of a stock Nix, over a layered store, gives up at
// a name that is none.
const tempName = "strata-tmp-link-"

// newTempName gives what the names of the temporary links of one Linker begin with.
func newTempName() (string, error) {
	var hash [20]byte
	_, _ = rand.Read(hash[:]) // never fails
	p, err := storepath.FromParts(hash[:], tempName)
	return p.Base(), err
}

// IsTemporary tells whether a store path that is not valid is a temporary link, which was left
// by somebody who was killed if nobody is at work.
func IsTemporary(p storepath.Path) bool {
	number, ok := strings.CutPrefix(p.Name(), tempName)
	if !ok {
		return false
	}
	_, err := strconv.ParseUint(number, 10, 64)
	return err == nil
}
