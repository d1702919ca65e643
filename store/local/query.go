package local

import (
	"context"
	"fmt"
	"io"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Referrers asks the database.
func (s *Store) Referrers(ctx context.Context, paths []storepath.Path) ([][]storepath.Path, error) {
	return s.db.Referrers(ctx, paths)
}

// ValidDerivers asks the database.
func (s *Store) ValidDerivers(ctx context.Context, p storepath.Path) ([]storepath.Path, error) {
	return s.db.ValidDerivers(ctx, p)
}

// PathFromHashPart asks the database.
func (s *Store) PathFromHashPart(ctx context.Context, hashPart string) (storepath.Path, error) {
	if err := storepath.CheckHashPart(hashPart); err != nil {
		return storepath.Path{}, err
	}
	return s.db.PathFromHashPart(ctx, hashPart)
}

// Realisations asks the database.
func (s *Store) Realisations(ctx context.Context, ids []store.DrvOutput) ([]*store.Realisation, error) {
	return s.db.Realisations(ctx, ids)
}

// NarFromPath reads the object.
func (s *Store) NarFromPath(ctx context.Context, p storepath.Path, w io.Writer) error {
	if ok, err := s.isValid(ctx, p); err != nil || !ok {
		if err == nil {
			err = &store.InvalidPathError{Path: s.dir.Print(p)}
		}
		return err
	}
	if err := nar.Dump(ctx, w, s.realPath(p)); err != nil {
		return fmt.Errorf("reading path '%s': %w", s.dir.Print(p), err)
	}
	return nil
}
