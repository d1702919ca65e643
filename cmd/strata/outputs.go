package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
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

// paths finds what the outputs are in a store that has the derivations.
func (w wantedOutputs) paths(ctx context.Context, st store.Store) ([]storepath.Path, error) {
	if len(w) == 0 {
		return nil, nil
	}
	q, err := store.Need[store.OutputQuerier](st, "queryDerivationOutputMap")
	if err != nil {
		return nil, err
	}
	var paths []storepath.Path
	for _, d := range w {
		known, err := q.DerivationOutputs(ctx, d.Path)
		if err != nil {
			return nil, err
		}
		for _, name := range outputNames(d, known) {
			p, ok := known[name]
			if !ok || p.IsZero() {
				return nil, &absentError{fmt.Sprintf("'%s' has no output '%s', or it was not built", st.Dir().Print(d.Path), name)}
			}
			paths = append(paths, p)
		}
	}
	return paths, nil
}

// outputNames are the names that are wanted of those that there are.
func outputNames[V any](d derivation.DerivedPath, all map[string]V) []string {
	if !d.WantsAll() {
		return d.Outputs
	}
	var names []string
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// realisations gives what src knows of the outputs of content-addressed
// derivations, so that whoever gets the outputs also learns what made them, and the paths that
// such a realisation depends on. Others have none.
func (w wantedOutputs) realisations(ctx context.Context, src store.Store) ([]*store.Realisation, error) {
	q, ok := store.As[store.RealisationQuerier](src)
	if !ok || len(w) == 0 {
		return nil, nil
	}
	read := func(ctx context.Context, drv storepath.Path) (*derivation.Derivation, error) {
		return readDerivation(ctx, src, drv)
	}
	hasher := derivation.NewHasher(src.Dir(), read)
	var ids []store.DrvOutput
	for _, d := range w {
		drv, err := read(ctx, d.Path)
		if err != nil {
			return nil, err
		}
		m, err := hasher.Modulo(ctx, drv)
		if err != nil {
			return nil, err
		}
		for _, name := range outputNames(d, drv.Outputs) {
			if k := drv.Outputs[name].Kind; m.Deferred || k == derivation.Floating || k == derivation.Deferred {
				ids = append(ids, store.DrvOutput{DrvHash: m.Hashes[name], Output: name})
			}
		}
	}
	found, err := q.Realisations(ctx, ids)
	return slices.DeleteFunc(found, func(r *store.Realisation) bool { return r == nil }), err
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
