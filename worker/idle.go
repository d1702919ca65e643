package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// maxDerivation bounds the text of a derivation, in bytes.
const maxDerivation = 64 << 20

// idle stands in for what a store lacks that can build and fetch nothing. Clients
// ask for builds also when all is there; that, idle can tell. It never pretends
// to have done anything.
type idle struct{ st store.Store }

func plannerOf(st store.Store) store.Planner {
	if p, ok := store.As[store.Planner](st); ok {
		return p
	}
	return idle{st}
}

func ensurerOf(st store.Store) store.Ensurer {
	if e, ok := store.As[store.Ensurer](st); ok {
		return e
	}
	return idle{st}
}

func builderOf(st store.Store) store.Builder {
	if b, ok := store.As[store.Builder](st); ok {
		return b
	}
	return idle{st}
}

// QueryMissing implements store.Planner.
func (i idle) QueryMissing(ctx context.Context, targets []derivation.DerivedPath) (*store.Missing, error) {
	m := new(store.Missing)
	for _, t := range targets {
		switch _, state, err := i.look(ctx, t); {
		case err != nil:
			return nil, err
		case state == unknown:
			m.Unknown = append(m.Unknown, t.Path)
		case state == unbuilt:
			m.WillBuild = append(m.WillBuild, t.Path)
		}
	}
	m.WillBuild = storepath.SortUnique(m.WillBuild)
	m.Unknown = storepath.SortUnique(m.Unknown)
	return m, nil
}

// EnsurePath implements store.Ensurer.
func (i idle) EnsurePath(ctx context.Context, p storepath.Path) error {
	valid, err := i.st.ValidPaths(ctx, []storepath.Path{p})
	if err == nil && len(valid) == 0 {
		err = errors.New(i.unobtainable(p))
	}
	return err
}

func (i idle) unobtainable(p storepath.Path) string {
	return fmt.Sprintf("path '%s' is required, but there is no substituter that can build it", i.st.Dir().Print(p))
}

// BuildPaths implements store.Builder.
func (i idle) BuildPaths(ctx context.Context, targets []derivation.DerivedPath, mode store.BuildMode) ([]*store.BuildResult, error) {
	unsupported := &store.UnsupportedError{Op: "buildPaths", Store: i.st.URI()}
	if mode != store.BuildNormal {
		return nil, unsupported
	}
	hasher := derivation.NewHasher(i.st.Dir(), i.read)
	results := make([]*store.BuildResult, len(targets))
	for n, t := range targets {
		r := &store.BuildResult{Path: t, Status: store.AlreadyValid}
		outputs, state, err := i.look(ctx, t)
		switch {
		case err != nil:
			return nil, err
		case state == unbuilt:
			unsupported.Why = "it cannot build '" + t.Text(i.st.Dir()) + "'"
			return nil, unsupported
		case state == unknown:
			r.Status, r.Message = store.NoSubstituters, i.unobtainable(t.Path)
		case !t.IsOpaque():
			if r.Outputs, err = i.realised(ctx, hasher, t.Path, outputs); err != nil {
				return nil, err
			}
		}
		results[n] = r
	}
	return results, nil
}

// What is there of a target.
type state int

const (
	present state = iota
	unbuilt       // the derivation is there, not all its outputs
	unknown       // not even that
)

// look tells what is there of a target, with the outputs that it wants.
func (i idle) look(ctx context.Context, t derivation.DerivedPath) (map[string]storepath.Path, state, error) {
	valid, err := i.st.ValidPaths(ctx, []storepath.Path{t.Path})
	if err != nil || len(valid) == 0 {
		return nil, unknown, err
	}
	if t.IsOpaque() {
		return nil, present, nil
	}
	q, ok := store.As[store.OutputQuerier](i.st)
	if !ok || len(t.Through) > 0 {
		return nil, unbuilt, nil
	}
	all, err := q.DerivationOutputs(ctx, t.Path)
	if err != nil {
		return nil, unbuilt, err
	}
	wanted := make(map[string]storepath.Path)
	var paths []storepath.Path
	for name, p := range all {
		if t.WantsAll() || slices.Contains(t.Outputs, name) {
			wanted[name] = p
			paths = append(paths, p)
		}
	}
	if slices.ContainsFunc(paths, storepath.Path.IsZero) || !t.WantsAll() && len(wanted) < len(t.Outputs) {
		return nil, unbuilt, nil
	}
	if valid, err = i.st.ValidPaths(ctx, paths); err != nil || len(valid) < len(paths) {
		return nil, unbuilt, err
	}
	return wanted, present, nil
}

// realised names outputs as results do, by the hash of the derivation.
func (i idle) realised(ctx context.Context, hasher *derivation.Hasher, drv storepath.Path, outputs map[string]storepath.Path) (map[string]*store.Realisation, error) {
	d, err := i.read(ctx, drv)
	if err != nil {
		return nil, err
	}
	m, err := hasher.Modulo(ctx, d)
	if err != nil {
		return nil, err
	}
	out := make(map[string]*store.Realisation, len(outputs))
	for name, p := range outputs {
		out[name] = &store.Realisation{ID: store.DrvOutput{DrvHash: m.Hashes[name], Output: name}, OutPath: p}
	}
	return out, nil
}

// read reads a derivation out of the store.
func (i idle) read(ctx context.Context, p storepath.Path) (*derivation.Derivation, error) {
	name, err := derivation.NameFromPath(p)
	if err != nil {
		return nil, err
	}
	src, err := store.Need[store.NarSource](i.st, "readDerivation")
	if err != nil {
		return nil, err
	}
	var archive strings.Builder
	if err := src.NarFromPath(ctx, p, &limited{w: &archive, left: maxDerivation}); err != nil {
		return nil, err
	}
	var text strings.Builder
	if err := nar.Cat(&text, strings.NewReader(archive.String()), ""); err != nil {
		return nil, fmt.Errorf("reading derivation '%s': %w", i.st.Dir().Print(p), err)
	}
	return derivation.Parse(i.st.Dir(), name, []byte(text.String()))
}

// limited fails after so many bytes.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, errors.New("too large for a derivation")
	}
	return l.w.Write(p)
}
