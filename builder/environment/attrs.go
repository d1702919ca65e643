package environment

import (
	"context"
	"maps"
	"math/bits"
	"slices"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// structured writes the attributes to files, for shells and for everybody else.
// Nothing of the derivation becomes a variable.
func (e *Environment) structured(ctx context.Context, spec *Spec) error {
	outputs := make(map[string]string, len(spec.Drv.Outputs))
	for name := range spec.Drv.Outputs {
		outputs[name] = derivation.OutputPlaceholder(name)
	}
	wanted := spec.Options.ExportReferencesGraph
	graphs := make(map[string][]derivation.GraphNode, len(wanted))
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		infos, err := spec.graph(ctx, wanted[name])
		if err != nil {
			return err
		}
		if graphs[name], err = nodes(spec.Store.Dir(), infos); err != nil {
			return err
		}
	}
	attrs := spec.Options.Structured.Prepared(spec.Store.Dir(), outputs, graphs)
	text, err := attrs.JSON()
	if err != nil {
		return err
	}
	e.file(spec, "NIX_ATTRS_JSON_FILE", ".attrs.json", string(text))
	e.file(spec, "NIX_ATTRS_SH_FILE", ".attrs.sh", string(attrs.Shell()))
	return nil
}

// nodes are infos, which hold all that they refer to, as attributes show them.
func nodes(dir storepath.Dir, infos []*store.PathInfo) ([]derivation.GraphNode, error) {
	sizes, err := closureSizes(dir, infos)
	if err != nil {
		return nil, err
	}
	list := make([]derivation.GraphNode, len(infos))
	for i, info := range infos {
		list[i] = derivation.GraphNode{
			Path: info.Path, NarHash: info.NarHash, NarSize: info.NarSize,
			References: info.References, CA: info.CA, ClosureSize: sizes[info.Path],
		}
	}
	return list, nil
}

// columns is how many paths are looked at in one go by closureSizes.
const columns = 1024

// closureSizes gives the sizes of the NARs of the closure of each of infos, which
// hold all that they refer to. Memory is linear in their number: which of some
// paths each path reaches is computed for all of them at once, a few columns of
// the matrix at a time.
func closureSizes(dir storepath.Dir, infos []*store.PathInfo) (map[storepath.Path]uint64, error) {
	sorted, err := store.SortByReferences(dir, infos)
	if err != nil {
		return nil, err
	}
	at := make(map[storepath.Path]int, len(sorted))
	for i, info := range sorted {
		at[info.Path] = i
	}
	sizes := make(map[storepath.Path]uint64, len(sorted))
	reach := make([][columns / 64]uint64, len(sorted))
	for first := 0; first < len(sorted); first += columns {
		clear(reach)
		for i := first; i < len(sorted); i++ {
			row := &reach[i]
			for _, r := range sorted[i].References {
				if j, ok := at[r]; ok && j >= first && j != i {
					for w, word := range reach[j] {
						row[w] |= word
					}
				}
			}
			if n := i - first; n < columns {
				row[n/64] |= 1 << (n % 64)
			}
			sizes[sorted[i].Path] += sumSizes(sorted[first:], row)
		}
	}
	return sizes, nil
}

// sumSizes adds up the sizes of those of infos whose bits are set.
func sumSizes(infos []*store.PathInfo, row *[columns / 64]uint64) (sum uint64) {
	for w, word := range row {
		for ; word != 0; word &= word - 1 {
			sum += infos[w*64+bits.TrailingZeros64(word)].NarSize
		}
	}
	return sum
}
