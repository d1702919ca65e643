package corpus

import (
	"bufio"
	"strconv"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// entry is what is registered about one path.
type entry struct {
	path    storepath.Path
	narHash nixhash.Hash
	narSize uint64
	deriver storepath.Path // zero: none
	refs    []storepath.Path
}

// write appends the entry in the form that `nix-store --load-db` reads: path,
// hex NAR hash, NAR size, deriver, number of references, references, one a
// line. Errors stay in w until it is flushed.
func (e *entry) write(w *bufio.Writer) {
	line := func(s string) {
		w.WriteString(s)
		w.WriteByte('\n')
	}
	dir := storepath.DefaultDir
	line(dir.Print(e.path))
	line(e.narHash.Digest(nixhash.Base16))
	line(strconv.FormatUint(e.narSize, 10))
	if e.deriver.IsZero() {
		line("")
	} else {
		line(dir.Print(e.deriver))
	}
	line(strconv.Itoa(len(e.refs)))
	for _, r := range e.refs {
		line(dir.Print(r))
	}
}
