package memstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// AddText adds a text object to a test's store.
func (s *Store) AddText(t testing.TB, name, text string, refs ...storepath.Path) storepath.Path {
	t.Helper()
	info, err := s.AddDump(t.Context(), store.Dump{
		Name:       name,
		Spec:       storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256},
		References: refs,
		Contents:   bytes.NewReader([]byte(text)),
	}, store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return info.Path
}

// Add implements store.Adder.
func (s *Store) Add(ctx context.Context, info *store.PathInfo, r io.Reader, o store.AddOptions) error {
	if err := addRoot(ctx, o, info.Path); err != nil {
		return err
	}
	if valid, _ := s.ValidPaths(ctx, []storepath.Path{info.Path}); len(valid) > 0 && !o.Repair {
		return nil
	}
	if !o.NoCheckSigs && s.Trusts != nil && !info.IsContentAddressed(s.dir) && !s.Trusts(info) {
		return &store.SignatureError{Path: s.dir.Print(info.Path)}
	}
	var archive bytes.Buffer
	if _, err := nar.Copy(&archive, r); err != nil {
		return fmt.Errorf("adding path '%s': %w", s.dir.Print(info.Path), err)
	}
	what := "importing path '" + s.dir.Print(info.Path) + "'"
	if got := nixhash.Of(nixhash.SHA256, archive.String()); got != info.NarHash {
		return &store.HashMismatchError{What: what, Want: info.NarHash, Got: got}
	}
	if got := uint64(archive.Len()); info.NarSize != got {
		return &store.SizeMismatchError{What: what, Want: info.NarSize, Got: got}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.put(info, archive.Bytes())
}

func addRoot(ctx context.Context, o store.AddOptions, p storepath.Path) error {
	if o.Roots == nil {
		return nil
	}
	return o.Roots.Add(ctx, []storepath.Path{p})
}

// put makes an object valid whose contents have been checked.
func (s *Store) put(info *store.PathInfo, archive []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ref := range info.References {
		if ref != info.Path && s.objects[ref] == nil {
			return &store.InvalidPathError{Path: s.dir.Print(ref), By: s.dir.Print(info.Path)}
		}
	}
	info = info.Clone()
	info.Registered = s.Now
	s.objects[info.Path] = &object{info: info, nar: archive, drv: s.outputsOf(info.Path, archive)}
	return nil
}

// AddMultiple implements store.MultiAdder.
func (s *Store) AddMultiple(ctx context.Context, src store.ObjectSource, o store.AddOptions) error {
	for {
		info, r, err := src.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Add(ctx, info, r, o); err != nil {
			return err
		}
	}
}

// AddDump implements store.DumpAdder.
func (s *Store) AddDump(ctx context.Context, d store.Dump, o store.AddOptions) (*store.PathInfo, error) {
	archive, err := archiveOf(d)
	if err != nil {
		return nil, fmt.Errorf("adding '%s': %w", d.Name, err)
	}
	h, err := address(d.Spec, archive)
	if err != nil {
		return nil, fmt.Errorf("adding '%s': %w", d.Name, err)
	}
	refs := storepath.SortUnique(slices.Clone(d.References))
	info := &store.PathInfo{
		NarHash:    nixhash.Of(nixhash.SHA256, string(archive)),
		NarSize:    uint64(len(archive)),
		References: refs,
		CA:         storepath.ContentAddress{Method: d.Spec.Method, Hash: h},
	}
	if info.Path, err = s.dir.Make(d.Name, info.CA, storepath.References{Others: refs}); err != nil {
		return nil, err
	}
	o.NoCheckSigs = true
	if err := s.Add(ctx, info, bytes.NewReader(archive), o); err != nil {
		return nil, err
	}
	return store.PathInfoOf(ctx, s, info.Path)
}

// archiveOf gives the NAR of a dump in whatever form it comes.
func archiveOf(d store.Dump) ([]byte, error) {
	var b bytes.Buffer
	if d.NAR {
		_, err := nar.Copy(&b, d.Contents)
		return b.Bytes(), err
	}
	text, err := io.ReadAll(d.Contents)
	if err != nil {
		return nil, err
	}
	w := nar.NewWriter(&b)
	if err := w.Next(nar.Entry{Type: nar.TypeRegular, Size: int64(len(text))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}

// address hashes an archive as its content address wants it.
func address(spec storepath.Spec, archive []byte) (nixhash.Hash, error) {
	switch spec.Method {
	case storepath.Recursive:
		return nixhash.Of(spec.Algorithm, string(archive)), nil
	case storepath.Git:
		id, _, err := nar.GitHash(bytes.NewReader(archive), spec.Algorithm.New)
		if err != nil {
			return nixhash.Hash{}, err
		}
		return nixhash.New(spec.Algorithm, id)
	default:
		text, err := contents(bytes.NewReader(archive))
		if err != nil {
			return nixhash.Hash{}, err
		}
		return nixhash.Of(spec.Algorithm, string(text)), nil
	}
}

// contents gives the one file that an archive consists of.
func contents(r io.Reader) ([]byte, error) {
	a := nar.NewReader(r)
	e, err := a.Next()
	if err != nil {
		return nil, err
	}
	if e.Type != nar.TypeRegular {
		return nil, errors.New("regular file expected")
	}
	return io.ReadAll(a)
}

// AddSignatures implements store.SignatureAdder.
func (s *Store) AddSignatures(_ context.Context, p storepath.Path, sigs []store.Signature) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects[p]
	if o == nil {
		return s.invalid(p)
	}
	info := o.info.Clone()
	info.Signatures = append(info.Signatures, sigs...)
	slices.Sort(info.Signatures)
	info.Signatures = slices.Compact(info.Signatures)
	s.objects[p] = &object{info: info, nar: o.nar, drv: o.drv}
	return nil
}

// RegisterRealisations implements store.RealisationRegistrar.
func (s *Store) RegisterRealisations(_ context.Context, rs []*store.Realisation) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rs {
		s.realisations[r.ID] = r
	}
	return nil
}

// AddBuildLog implements store.LogAdder.
func (s *Store) AddBuildLog(_ context.Context, drv storepath.Path, log io.Reader) error {
	text, err := io.ReadAll(log)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs[drv] = text
	return nil
}
