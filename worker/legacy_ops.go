package worker

import (
	"context"
	"fmt"
	"os"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/export"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// mayWrite is asked after the request has been read.
func (s *legacySession) mayWrite(what string) error {
	if err := s.in.end(); err != nil {
		return notJustEOF(err)
	}
	if !s.Write {
		return denied(what + " is not allowed")
	}
	return nil
}

func (s *legacySession) queryValidPaths(ctx context.Context) error {
	lock, substitute := s.in.Bool(), s.in.Bool()
	paths := s.in.paths()
	if err := s.in.end(); err != nil {
		return notJustEOF(err)
	}
	if lock && s.Write && s.roots != nil {
		if err := s.roots.Add(ctx, paths); err != nil {
			return err
		}
	}
	if substitute && s.Write {
		// What cannot be had is missing in the answer.
		if _, err := builderOf(s.Store).BuildPaths(ctx, opaque(paths), store.BuildNormal); err != nil {
			return err
		}
	}
	valid, err := s.Store.ValidPaths(ctx, paths)
	if err != nil {
		return err
	}
	s.out.paths(storepath.SortUnique(valid))
	return nil
}

// opaque wants paths themselves, also those of derivations.
func opaque(paths []storepath.Path) []derivation.DerivedPath {
	out := make([]derivation.DerivedPath, len(paths))
	for i, p := range paths {
		out[i].Path = p
	}
	return out
}

func (s *legacySession) queryPathInfos(ctx context.Context) error {
	paths := s.in.paths()
	if err := s.in.end(); err != nil {
		return notJustEOF(err)
	}
	infos, err := s.Store.PathInfos(ctx, paths)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if info != nil {
			s.out.path(info.Path)
			s.out.legacyInfo(info, s.version)
		}
	}
	s.out.Text("")
	return nil
}

func (s *legacySession) dumpStorePath(ctx context.Context) error {
	p := s.in.path()
	if err := s.in.end(); err != nil {
		return notJustEOF(err)
	}
	src, err := store.Need[store.NarSource](s.Store, "narFromPath")
	if err != nil {
		return err
	}
	return src.NarFromPath(ctx, p, s.out)
}

func (s *legacySession) importPaths(ctx context.Context) error {
	if err := s.mayWrite("importing paths"); err != nil {
		return err
	}
	spool, err := os.CreateTemp("", "strata-import-")
	if err != nil {
		return fmt.Errorf("spooling an import: %w", err)
	}
	defer spool.Close()
	if err := os.Remove(spool.Name()); err != nil { // it lives as long as it is open
		return fmt.Errorf("spooling an import: %w", err)
	}
	if err := store.AddMultiple(ctx, s.Store, export.NewSource(s.below, s.in.dir, spool), s.addOptions()); err != nil {
		return err
	}
	s.out.Uint64(1)
	return nil
}

// addOptions trust the client, whom ssh has let in.
func (s *legacySession) addOptions() store.AddOptions {
	return store.AddOptions{NoCheckSigs: true, Roots: s.roots}
}

func (s *legacySession) addToStoreNar(ctx context.Context) error {
	info := s.in.legacyUpload()
	if err := s.mayWrite("importing paths"); err != nil {
		return err
	}
	archive := nar.NewStream(s.below)
	defer archive.Close()
	a, err := store.Need[store.Adder](s.Store, "addToStore")
	if err == nil {
		err = a.Add(ctx, info, archive, s.addOptions())
	}
	if err == nil {
		err = archive.Skip() // of what was valid already nothing has been read
	}
	if err != nil {
		return err
	}
	s.out.Uint64(1)
	return nil
}

func (s *legacySession) queryClosure(ctx context.Context) error {
	includeOutputs := s.in.Bool()
	paths := s.in.paths()
	if err := s.in.end(); err != nil {
		return notJustEOF(err)
	}
	closure := storepath.Set{}
	for len(paths) > 0 {
		infos, err := store.Closure(ctx, s.Store, paths)
		if err != nil {
			return err
		}
		var drvs []storepath.Path
		for _, info := range infos {
			if closure.Add(info.Path) && info.Path.IsDerivation() {
				drvs = append(drvs, info.Path)
			}
		}
		if paths = nil; includeOutputs {
			if paths, err = s.outputs(ctx, drvs, closure); err != nil {
				return err
			}
		}
	}
	s.out.paths(closure.Sorted())
	return nil
}

// outputs are the valid outputs of derivations, but for those of known.
func (s *legacySession) outputs(ctx context.Context, drvs []storepath.Path, known storepath.Set) ([]storepath.Path, error) {
	q, ok := store.As[store.OutputQuerier](s.Store)
	if !ok {
		return nil, nil
	}
	var all []storepath.Path
	for _, drv := range drvs {
		outputs, err := q.DerivationOutputs(ctx, drv)
		if err != nil {
			return nil, err
		}
		for _, p := range outputs {
			if !p.IsZero() && !known.Has(p) {
				all = append(all, p)
			}
		}
	}
	return s.Store.ValidPaths(ctx, storepath.SortUnique(all))
}
