package local

import (
	"context"
	"fmt"

	"github.com/strata-nix/strata/store"
)

// repair makes the object of a valid path anew, from a substituter that has it
// with the very contents that we have registered: that is all the trust it takes.
func (s *Store) repair(ctx context.Context, info *store.PathInfo) error {
	if err := s.Substitution().Repair(ctx, info); err != nil {
		return fmt.Errorf("cannot repair path '%s': %w", s.dir.Print(info.Path), err)
	}
	return nil
}
