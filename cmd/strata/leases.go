package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/strata-nix/strata/lease"
	"github.com/strata-nix/strata/objstore/s3"
)

// leases opens a place for leases: a directory, or a bucket of S3 with a prefix. It is
// not looked at yet.
func (c *config) leases(ctx context.Context, place string) (*lease.Place, error) {
	if !strings.Contains(place, "://") {
		dir, err := filepath.Abs(place)
		if err != nil {
			return nil, err
		}
		return lease.OpenDirectory(dir)
	}
	ref, err := parseReference(place)
	if err != nil {
		return nil, err
	}
	p := newParams(ref)
	switch ref.Scheme {
	case "file":
		if !filepath.IsAbs(ref.Authority) {
			p.failf("'%s' is not an absolute path", ref.Authority)
		}
		if err := p.end(); err != nil {
			return nil, err
		}
		return lease.OpenDirectory(filepath.Clean(ref.Authority))
	case "s3":
		o := c.s3Options(p)
		if err := p.end(); err != nil {
			return nil, err
		}
		if o.Transport, err = c.network.s3Transport(); err != nil {
			return nil, err
		}
		objects, err := s3.Open(ctx, o)
		if err != nil {
			return nil, err
		}
		return lease.NewPlace(objects, place), nil
	}
	return nil, fmt.Errorf("leases are in a directory, or in a bucket (s3://), and not at '%s'", place)
}
