package main

import (
	"errors"
	"path/filepath"

	"github.com/strata-nix/strata/internal/debian"
	"github.com/strata-nix/strata/internal/testenv"
)

// Of smoke tests: inputs so small that every row takes a moment.
const (
	smokeScale = 0.002
	smokeBytes = 8 << 20 // of real objects
)

// archive is where the real inputs come from. Without a mirror what is in the
// cache will do.
func archive() (*debian.Archive, error) {
	cache, err := testenv.CacheDir()
	if err != nil {
		return nil, err
	}
	mirror, err := debian.Mirror()
	if err != nil && !errors.Is(err, debian.ErrNoMirror) {
		return nil, err
	}
	return &debian.Archive{URL: mirror, Cache: filepath.Join(cache, "debs")}, nil
}
