package narinfo

import (
	"fmt"
	"strconv"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Text prints the file as Nix does. The fields that must be there must be set;
// the file's hash and size are left out when the hash is not known.
func (i *NarInfo) Text(dir storepath.Dir) ([]byte, error) {
	if err := i.printable(dir); err != nil {
		return nil, err
	}
	b := make([]byte, 0, 512+64*len(i.References))
	line := func(name, value string) {
		b = append(append(append(append(b, name...), ": "...), value...), '\n')
	}
	line("StorePath", dir.Print(i.Path))
	line("URL", i.URL)
	line("Compression", i.Compression)
	if !i.FileHash.IsZero() {
		line("FileHash", i.FileHash.Text(nixhash.Nix32))
		line("FileSize", strconv.FormatUint(i.FileSize, 10))
	}
	line("NarHash", i.NarHash.Text(nixhash.Nix32))
	line("NarSize", strconv.FormatUint(i.NarSize, 10))
	b = append(b, "References: "...)
	for n, r := range i.References {
		if n > 0 {
			b = append(b, ' ')
		}
		b = append(b, r.Base()...)
	}
	b = append(b, '\n')
	if !i.Deriver.IsZero() {
		line("Deriver", i.Deriver.Base())
	}
	for _, s := range store.SortSignatures(append([]store.Signature(nil), i.Signatures...)) {
		line("Sig", string(s))
	}
	if !i.CA.IsZero() {
		line("CA", i.CA.String())
	}
	return b, nil
}

// printable refuses what Parse would not take back.
func (i *NarInfo) printable(dir storepath.Dir) error {
	fault := func(why string) error {
		return fmt.Errorf("%w: narinfo of '%s': %s", ErrFormat, dir.Print(i.Path), why)
	}
	switch {
	case i.Path.IsZero():
		return fmt.Errorf("%w: StorePath missing", ErrFormat)
	case i.URL == "" || i.Compression == "":
		return fault("URL or Compression missing")
	case checkPlain(i.URL) != nil || checkPlain(i.Compression) != nil:
		return fault("URL or Compression has a character that cannot be")
	case i.NarHash.Algorithm() != nixhash.SHA256:
		return fault("NarHash missing or not sha256")
	case !i.FileHash.IsZero() && i.FileHash.Algorithm() != nixhash.SHA256:
		return fault("FileHash not sha256")
	case i.NarSize == 0:
		return fault("NarSize missing or zero")
	}
	return nil
}
