package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// wantedOutputs are outputs of derivations that arguments name: "<drv>^out,dev" or
// "<drv>^*".
type wantedOutputs []derivation.DerivedPath

// parseOutputs reads those of args that name outputs, and gives the others back.
func parseOutputs(dir storepath.Dir, args []string) (outputs wantedOutputs, rest []string, err error) {
	for _, arg := range args {
		if !strings.Contains(arg, "^") {
			rest = append(rest, arg)
			continue
		}
		d, err := derivation.ParseDerivedPathArg(dir, arg)
		if err != nil {
			return nil, nil, &usageError{err}
		}
		if len(d.Through) > 0 || !d.Path.IsDerivation() {
			return nil, nil, &usageError{fmt.Errorf("'%s' names no output of a derivation in the store", arg)}
		}
		outputs = append(outputs, d)
	}
	return outputs, rest, nil
}

// resolve finds what the outputs are in a store that has the derivations: their
// paths and, of those that are content-addressed, what the store knows of how they came about, so
// that whoever gets the outputs also learns what made them.
func (w wantedOutputs) resolve(ctx context.Context, st store.Store) (paths []storepath.Path, rs []*store.Realisation, err error) {
	if len(w) == 0 {
		return nil, nil, nil
	}
	q, err := store.Need[store.OutputQuerier](st, "queryDerivationOutputMap")
	if err != nil {
		return nil, nil, err
	}
	hasher := derivation.NewHasher(st.Dir(), func(ctx context.Context, drv storepath.Path) (*derivation.Derivation, error) {
		return readDerivation(ctx, st, drv)
	})
	for _, d := range w {
		known, err := q.DerivationOutputs(ctx, d.Path)
		if err != nil {
			return nil, nil, err
		}
		realised, err := realisationsOf(ctx, st, hasher, d.Path)
		if err != nil {
			return nil, nil, err
		}
		names := d.Outputs
		if d.WantsAll() {
			names = slices.Sorted(maps.Keys(known))
		}
		for _, name := range names {
			p := known[name]
			if r := realised[name]; r != nil {
				p = r.OutPath
				rs = append(rs, r)
			}
			if p.IsZero() {
				return nil, nil, &absentError{fmt.Sprintf("'%s' has no output '%s', or it was not built", st.Dir().Print(d.Path), name)}
			}
			paths = append(paths, p)
		}
	}
	return paths, rs, nil
}

// realisationsOf gives what a store knows of the outputs of a derivation, by their
// names. Only outputs whose paths nobody could know beforehand have some.
func realisationsOf(ctx context.Context, st store.Store, hasher *derivation.Hasher, drv storepath.Path) (map[string]*store.Realisation, error) {
	q, ok := store.As[store.RealisationQuerier](st)
	if !ok {
		return nil, nil
	}
	d, err := readDerivation(ctx, st, drv)
	if err != nil {
		return nil, err
	}
	m, err := hasher.Modulo(ctx, d)
	if err != nil {
		return nil, err
	}
	var ids []store.DrvOutput
	for name, o := range d.Outputs {
		if m.Deferred || !o.Kind.HasKnownPath() {
			ids = append(ids, store.DrvOutput{DrvHash: m.Hashes[name], Output: name})
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	found, err := q.Realisations(ctx, ids)
	if err != nil {
		return nil, err
	}
	realised := map[string]*store.Realisation{}
	for _, r := range found {
		if r != nil {
			realised[r.ID.Output] = r
		}
	}
	return realised, nil
}

// maxDerivation is more than a derivation has, in bytes.
const maxDerivation = derivation.MaxSize

// readDerivation reads a valid derivation of a store.
func readDerivation(ctx context.Context, st store.Store, drv storepath.Path) (*derivation.Derivation, error) {
	r, err := store.OpenNar(ctx, st, drv)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var text bytes.Buffer
	if err := nar.Cat(&text, io.LimitReader(r, maxDerivation), ""); err != nil {
		return nil, fmt.Errorf("reading '%s': %w", st.Dir().Print(drv), err)
	}
	name, err := derivation.NameFromPath(drv)
	if err != nil {
		return nil, err
	}
	return derivation.Parse(st.Dir(), name, text.Bytes())
}
