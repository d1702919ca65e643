package builder

import (
	"context"
	"fmt"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// EnsurePath makes p valid, see [store.Ensurer].
func EnsurePath(ctx context.Context, s Store, p storepath.Path) error {
	results, err := BuildPaths(ctx, s, []derivation.DerivedPath{{Path: p}}, store.BuildNormal)
	if err != nil {
		return err
	}
	if !results[0].Status.OK() {
		return fmt.Errorf("%s", results[0].Message)
	}
	return nil
}

// BuildPaths answers for targets that are valid already, see [store.Builder].
func BuildPaths(ctx context.Context, s Store, targets []derivation.DerivedPath, mode store.BuildMode) ([]*store.BuildResult, error) {
	results := make([]*store.BuildResult, len(targets))
	hasher := derivation.NewHasher(s.Dir(), s.Derivation)
	for i, t := range targets {
		r, err := buildOne(ctx, s, hasher, t, mode)
		if err != nil {
			return nil, err
		}
		r.Path, results[i] = t, r
	}
	return results, nil
}

func buildOne(ctx context.Context, s Store, hasher *derivation.Hasher, t derivation.DerivedPath, mode store.BuildMode) (*store.BuildResult, error) {
	valid, err := s.ValidPaths(ctx, []storepath.Path{t.Path})
	if err != nil {
		return nil, err
	}
	if len(valid) == 0 {
		return &store.BuildResult{Status: store.NoSubstituters, Message: fmt.Sprintf(
			"path '%s' is required, but there is no substituter that can build it", s.Dir().Print(t.Path))}, nil
	}
	if mode != store.BuildNormal {
		return nil, unsupported(s, t)
	}
	if t.IsOpaque() {
		return &store.BuildResult{Status: store.AlreadyValid}, nil
	}
	if len(t.Through) > 0 {
		return nil, unsupported(s, t)
	}
	outputs, err := outputsValid(ctx, s, t)
	if err != nil {
		return nil, err
	}
	if outputs == nil {
		return nil, unsupported(s, t)
	}
	drv, err := s.Derivation(ctx, t.Path)
	if err != nil {
		return nil, err
	}
	m, err := hasher.Modulo(ctx, drv)
	if err != nil {
		return nil, err
	}
	r := &store.BuildResult{Status: store.AlreadyValid, Outputs: map[string]*store.Realisation{}}
	for name, p := range outputs {
		r.Outputs[name] = &store.Realisation{ID: store.DrvOutput{DrvHash: m.Hashes[name], Output: name}, OutPath: p}
	}
	return r, nil
}

func unsupported(s Store, t derivation.DerivedPath) error {
	return &store.UnsupportedError{Op: "build", Store: s.URI(), Why: fmt.Sprintf(
		"Cannot build '%s': this version of strata does not run builders", t.Text(s.Dir()))}
}
