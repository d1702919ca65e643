package binarycache

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/storepath"
)

// maxListing bounds the bytes of a listing: of an object with 10^6 files.
const maxListing = 256 << 20

// NarListing gives the listing that lies beside a path's narinfo; fs.ErrNotExist says
// that there is none. Nobody has signed it, and it may be of any object.
func (s *Store) NarListing(ctx context.Context, p storepath.Path) (*nar.Listing, error) {
	name := p.HashPart() + ".ls"
	text, err := s.readFile(ctx, name, "", maxListing)
	if missing(err) {
		return nil, fmt.Errorf("listing of '%s' in '%s': %w", p, s.o.URI, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	l, err := nar.ReadListing(bytes.NewReader(text))
	if err != nil {
		return nil, s.bad(name, "", err)
	}
	return l, nil
}
