package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Register makes paths valid, see [store.Registrar]. What of their references is
// valid only below comes along with its closure, so that the database is whole
// by itself.
func (s *Store) Register(ctx context.Context, infos []*store.PathInfo) error {
	if err := s.writable(); err != nil {
		return err
	}
	if s.opts.SyncBeforeRegistering {
		unix.Sync()
	}
	regs := make([]nixdb.Registration, 0, len(infos))
	hasher := derivation.NewHasher(s.dir, s.Derivation)
	for _, info := range infos {
		r, err := s.registration(ctx, hasher, info)
		if err != nil {
			return err
		}
		regs = append(regs, r)
	}
	if s.layer.Lower != nil {
		below, err := s.fromBelow(ctx, infos)
		if err != nil {
			return err
		}
		regs = append(below, regs...)
	}
	return s.db.Register(ctx, regs)
}

// Load registers a stream, see [store.Loader]. Over a lower store it is collected
// first, since what it leans on has to be looked for below.
func (s *Store) Load(ctx context.Context, infos iter.Seq2[*store.PathInfo, error]) (int, error) {
	if err := s.writable(); err != nil {
		return 0, err
	}
	if s.layer.Lower != nil {
		var all []*store.PathInfo
		for info, err := range infos {
			if err != nil {
				return len(all), err
			}
			all = append(all, info)
		}
		return len(all), s.Register(ctx, all)
	}
	hasher := derivation.NewHasher(s.dir, s.Derivation)
	return s.db.Load(ctx, func(yield func(nixdb.Registration, error) bool) {
		for info, err := range infos {
			var r nixdb.Registration
			if err == nil {
				r, err = s.registration(ctx, hasher, info)
			}
			if !yield(r, err) {
				return
			}
		}
	})
}

// registration is what a path is registered with; for a derivation that includes
// its outputs.
func (s *Store) registration(ctx context.Context, h *derivation.Hasher, info *store.PathInfo) (r nixdb.Registration, err error) {
	r.Info = info
	if info.Path.IsDerivation() {
		r.Outputs, err = s.checkedOutputs(ctx, h, info.Path)
	}
	return r, err
}

// checkedOutputs reads which paths the derivation at p will have for sure, and
// refuses a derivation that claims paths that are not its own.
func (s *Store) checkedOutputs(ctx context.Context, h *derivation.Hasher, p storepath.Path) (map[string]storepath.Path, error) {
	drv, err := s.Derivation(ctx, p)
	if err != nil {
		return nil, err
	}
	warnings, err := s.hashes.Check(ctx, p, drv)
	if errors.Is(err, store.ErrNotValid) {
		// It depends on one that is registered together with it.
		warnings, err = h.Check(ctx, p, drv)
	}
	for _, w := range warnings {
		activity.Warnf(ctx, "%s", w)
	}
	if err != nil {
		return nil, err
	}
	return s.knownOutputs(drv)
}

// knownOutputs are the output paths that are known before a build.
func (s *Store) knownOutputs(drv *derivation.Derivation) (map[string]storepath.Path, error) {
	outputs, err := drv.OutputPaths(s.dir)
	for name, p := range outputs {
		if p.IsZero() {
			delete(outputs, name)
		}
	}
	return outputs, err
}

// Derivation reads a derivation from the store directory, valid or not.
func (s *Store) Derivation(_ context.Context, p storepath.Path) (*derivation.Derivation, error) {
	name, err := derivation.NameFromPath(p)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(s.realPath(p))
	if err != nil {
		return nil, fmt.Errorf("reading derivation '%s': %w", s.dir.Print(p), err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, derivation.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading derivation '%s': %w", s.dir.Print(p), err)
	}
	drv, err := derivation.Parse(s.dir, name, text)
	if err != nil {
		return nil, fmt.Errorf("error parsing derivation '%s': %w", s.dir.Print(p), err)
	}
	return drv, nil
}

// Hasher hashes derivations that depend on valid ones only. It remembers what it
// has hashed for as long as the store is open.
func (s *Store) Hasher() *derivation.Hasher { return s.hashes }

// validDerivation is Derivation for what will be remembered. What is not valid may
// become something else.
func (s *Store) validDerivation(ctx context.Context, p storepath.Path) (*derivation.Derivation, error) {
	if ok, err := s.isValid(ctx, p); err != nil || !ok {
		if err == nil {
			err = &store.InvalidPathError{Path: s.dir.Print(p)}
		}
		return nil, err
	}
	return s.Derivation(ctx, p)
}

// fromBelow gives registrations of everything that infos lean on and that only
// the lower store has.
func (s *Store) fromBelow(ctx context.Context, infos []*store.PathInfo) ([]nixdb.Registration, error) {
	own := make(storepath.Set, len(infos))
	for _, info := range infos {
		own.Add(info.Path)
	}
	var refs []storepath.Path
	for _, info := range infos {
		for _, r := range info.References {
			if !own.Has(r) {
				refs = append(refs, r)
			}
		}
	}
	return s.lowerClosure(ctx, storepath.SortUnique(refs), own)
}

// lowerClosure gives registrations of those of paths and of their closures that
// are valid below and not in the database. What seen has is passed over, and so
// is what is valid nowhere: the database names it when it misses it.
func (s *Store) lowerClosure(ctx context.Context, level []storepath.Path, seen storepath.Set) ([]nixdb.Registration, error) {
	var regs []nixdb.Registration
	var leanedOn []*store.PathInfo
	for len(level) > 0 {
		missing, err := s.absent(ctx, level)
		if err != nil {
			return nil, err
		}
		found, err := s.layer.Lower.PathInfos(ctx, missing)
		if err != nil {
			return nil, err
		}
		level = nil
		for _, info := range found {
			if info == nil {
				continue
			}
			reg, err := s.copyUp(ctx, info)
			if err != nil {
				return nil, err
			}
			regs, leanedOn = append(regs, reg), append(leanedOn, info)
			seen.Add(info.Path)
			for _, r := range info.References {
				if seen.Add(r) {
					level = append(level, r)
				}
			}
		}
	}
	if s.layer.Lean != nil && len(leanedOn) > 0 {
		if err := s.layer.Lean(ctx, leanedOn); err != nil {
			return nil, err
		}
	}
	return regs, nil
}

// Adopt copies the metadata of paths up that are valid only below, with their
// closures: for paths that somebody wants to have here, not only to know about.
func (s *Store) Adopt(ctx context.Context, paths []storepath.Path) error {
	if s.layer.Lower == nil || len(paths) == 0 {
		return nil
	}
	if err := s.writable(); err != nil {
		return err
	}
	regs, err := s.lowerClosure(ctx, paths, storepath.NewSet(paths...))
	if err != nil || len(regs) == 0 {
		return err
	}
	return s.db.Register(ctx, regs)
}

// absent gives those of paths that the database does not have.
func (s *Store) absent(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	here, err := s.db.ValidPaths(ctx, paths)
	return storepath.NewSet(here...).Missing(paths), err
}

// copyUp makes a row of what the lower store says. Its outputs are read through
// the store directory, in which the lower's objects are.
func (s *Store) copyUp(ctx context.Context, info *store.PathInfo) (nixdb.Registration, error) {
	r := nixdb.Registration{Info: info}
	if info.Path.IsDerivation() {
		drv, err := s.Derivation(ctx, info.Path)
		if err == nil {
			r.Outputs, err = s.knownOutputs(drv)
		}
		if err != nil {
			return r, &store.DamageError{Layer: "lower store", Path: s.dir.Print(info.Path), Why: "it is valid and cannot be read", Err: err}
		}
	}
	return r, nil
}

// AddSignatures adds signatures, see [store.SignatureAdder]. A path that only the
// lower store has is copied up for it.
func (s *Store) AddSignatures(ctx context.Context, p storepath.Path, sigs []store.Signature) error {
	if err := s.writable(); err != nil {
		return err
	}
	if err := s.Adopt(ctx, []storepath.Path{p}); err != nil {
		return err
	}
	return s.db.AddSignatures(ctx, p, sigs)
}

// RegisterRealisations stores realisations, see [store.RealisationRegistrar]. Paths
// that only the lower store has are copied up for it.
func (s *Store) RegisterRealisations(ctx context.Context, rs []*store.Realisation) error {
	if err := s.writable(); err != nil {
		return err
	}
	if !s.opts.CADerivations {
		return &store.UnsupportedError{Op: "registerDrvOutput", Store: s.uri, Why: "experimental Nix feature 'ca-derivations' is disabled; add '--extra-experimental-features ca-derivations' to enable it"}
	}
	paths := make([]storepath.Path, len(rs))
	for i, r := range rs {
		paths[i] = r.OutPath
	}
	if err := s.Adopt(ctx, storepath.SortUnique(paths)); err != nil {
		return err
	}
	return s.db.RegisterRealisations(ctx, rs)
}
