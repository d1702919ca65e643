package local

import (
	"context"
	"fmt"

	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/lease"
	"github.com/strata-nix/strata/storepath"
)

// checkLeases looks for leases on this store that are of nobody any more, that nobody can
// read, or that name paths which are not valid, see [check.Source].
func (s *Store) checkLeases(ctx context.Context, found func(*check.Finding)) error {
	_, all, err := s.opts.Leases.List(ctx)
	if err != nil {
		return err
	}
	for _, e := range all {
		f := &check.Finding{Code: check.LeaseDangling, Path: e.Name}
		switch {
		case e.Err != nil:
			f.Detail = fmt.Sprintf("it cannot be read, and no garbage is collected meanwhile: %v", e.Err)
		case e.State == lease.Lapsed:
			f.Detail = fmt.Sprintf("'%s' has not been heard of since %s", e.Lease.Holder, e.Lease.Published.UTC().Format("2006-01-02"))
			f.Mend = func(ctx context.Context) error {
				_, err := s.opts.Leases.DropLapsed(ctx)
				return err
			}
		default:
			lost, err := s.lostOf(ctx, e.Lease)
			if err != nil {
				return err
			}
			if lost == "" {
				continue
			}
			f.Detail = fmt.Sprintf("'%s' %s", e.Lease.Holder, lost)
		}
		found(f)
	}
	return nil
}

// lostOf says what a lease names that is not valid here, "" if everything is.
func (s *Store) lostOf(ctx context.Context, l *lease.Lease) (string, error) {
	lost, first := 0, ""
	for _, h := range l.Roots {
		p, err := s.db.PathFromHashPart(ctx, h.String())
		if err != nil {
			return "", err
		}
		if p == (storepath.Path{}) {
			if lost++; lost == 1 {
				first = h.String()
			}
		}
	}
	switch lost {
	case 0:
		return "", nil
	case 1:
		return fmt.Sprintf("leans on '%s/%s-…', which is not valid", s.dir, first), nil
	}
	return fmt.Sprintf("leans on '%s/%s-…' and %d more, which are not valid", s.dir, first, lost-1), nil
}
