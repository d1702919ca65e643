package binarycache

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Add puts one object into the cache, see [store.Adder]. Signatures are not looked
// at.
func (s *Store) Add(ctx context.Context, info *store.PathInfo, archive io.Reader, o store.AddOptions) error {
	if err := s.writable(ctx); err != nil {
		return err
	}
	if !o.Repair {
		if valid, err := s.ValidPaths(ctx, []storepath.Path{info.Path}); err != nil || len(valid) > 0 {
			return err
		}
	}
	open := func(context.Context) (io.ReadCloser, error) { return io.NopCloser(archive), nil }
	ni, err := s.pack(ctx, info, open, o.Repair)
	if err != nil {
		return fmt.Errorf("adding '%s' to binary cache '%s': %w", s.o.Dir.Print(info.Path), s.o.URI, err)
	}
	valid, err := s.ValidPaths(ctx, info.References)
	if err != nil {
		return err
	}
	there := storepath.NewSet(valid...)
	for _, r := range info.References {
		if r != info.Path && !there.Has(r) {
			return &store.InvalidPathError{Path: s.o.Dir.Print(r), By: s.o.Dir.Print(info.Path)}
		}
	}
	return s.writeInfo(ctx, ni)
}

// validSet is ValidPaths as a set, with what is wrong with those of which it is not
// clear.
func (s *Store) validSet(ctx context.Context, paths []storepath.Path) (valid storepath.Set, unclear map[storepath.Path]error, err error) {
	list, err := s.ValidPaths(ctx, paths)
	if partial, ok := errors.AsType[*store.PartialError](err); ok {
		unclear, err = partial.Errs, nil
	}
	return storepath.NewSet(list...), unclear, err
}

// writeInfo writes a narinfo, with which its object is in the cache.
func (s *Store) writeInfo(ctx context.Context, ni *narinfo.NarInfo) error {
	text, err := ni.Text(s.o.Dir)
	if err != nil {
		return err
	}
	hash := ni.Path.HashPart()
	if err := s.writeFile(ctx, hash+infoSuffix, text, s.o.InfoCompression, objstore.PutOptions{ContentType: typeNarInfo}); err != nil {
		return err
	}
	s.remember(context.WithoutCancel(ctx), map[string]*narinfo.NarInfo{hash: ni})
	return nil
}

// AddSignatures adds signatures to what the cache has of a path now. What somebody
// else writes at the same moment may get lost, or win.
func (s *Store) AddSignatures(ctx context.Context, p storepath.Path, sigs []store.Signature) error {
	if err := s.writable(ctx); err != nil {
		return err
	}
	if err := s.signing.acquire(ctx); err != nil {
		return err
	}
	defer s.signing.release()
	old, err := s.askInfo(ctx, p.HashPart())
	if err != nil {
		return err
	}
	if old == nil || old.Path != p {
		return &store.InvalidPathError{Path: s.o.Dir.Print(p)}
	}
	ni := *old
	ni.PathInfo = *old.Clone()
	ni.Signatures = store.SortSignatures(append(ni.Signatures, sigs...))
	if len(ni.Signatures) == len(old.Signatures) {
		return nil
	}
	if err := s.writeInfo(ctx, &ni); err != nil {
		return fmt.Errorf("adding signatures to '%s': %w", s.o.Dir.Print(p), err)
	}
	return nil
}
