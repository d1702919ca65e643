package local

import (
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Build logs lie under drvs/<first two digits>/<rest of the base name>, plain or
// with .bz2; long ago all in one directory.
func logPlaces(logDir string, drv storepath.Path) []string {
	base := drv.Base()
	return []string{filepath.Join(logDir, "drvs", base[:2], base[2:]), filepath.Join(logDir, "drvs", base)}
}

// BuildLog opens a build log, see [store.LogQuerier].
func (s *Store) BuildLog(_ context.Context, drv storepath.Path) (io.ReadCloser, error) {
	for _, place := range logPlaces(s.log, drv) {
		f, err := os.Open(place)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading the build log of '%s': %w", s.dir.Print(drv), err)
		}
		f, err = os.Open(place + ".bz2")
		if err == nil {
			return struct {
				io.Reader
				io.Closer
			}{bzip2.NewReader(f), f}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading the build log of '%s': %w", s.dir.Print(drv), err)
		}
	}
	return nil, fmt.Errorf("build log of '%s' is not available: %w", s.dir.Print(drv), store.ErrNoLog)
}

// AddBuildLog stores a build log, plain, see [store.LogAdder]. One that is there is
// kept, as in Nix.
func (s *Store) AddBuildLog(_ context.Context, drv storepath.Path, log io.Reader) error {
	if err := s.writable(); err != nil {
		return err
	}
	if !drv.IsDerivation() {
		return fmt.Errorf("'%s' is not a derivation and has no build log", s.dir.Print(drv))
	}
	place := logPlaces(s.log, drv)[0]
	for _, p := range []string{place, place + ".bz2"} {
		if _, err := os.Lstat(p); err == nil {
			return nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		return fmt.Errorf("storing a build log: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(place), filepath.Base(place)+".tmp.*")
	if err != nil {
		return fmt.Errorf("storing a build log: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // after the rename it is not there
	_, err = io.Copy(f, log)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), place)
	}
	if err != nil {
		return fmt.Errorf("storing a build log: %w", err)
	}
	return nil
}
