package store

import (
	"context"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/storepath"
)

// OutputsOf gives the outputs of a derivation by their names: the paths that are in it, and for
// those that only a build can tell, what was realised according to q. It is the zero path for one that
// nobody knows, as for all of those if q is nil.
func OutputsOf(ctx context.Context, dir storepath.Dir, drv *derivation.Derivation, h *derivation.Hasher, q RealisationQuerier) (map[string]storepath.Path, error) {
	outputs, err := drv.OutputPaths(dir)
	if err != nil || q == nil {
		return outputs, err
	}
	var open []string
	for name, p := range outputs {
		if p.IsZero() {
			open = append(open, name)
		}
	}
	if len(open) == 0 {
		return outputs, nil
	}
	m, err := h.Modulo(ctx, drv)
	if err != nil {
		return nil, err
	}
	ids := make([]DrvOutput, len(open))
	for i, name := range open {
		ids[i] = DrvOutput{DrvHash: m.Hashes[name], Output: name}
	}
	found, err := q.Realisations(ctx, ids)
	if err != nil {
		return nil, err
	}
	for i, r := range found {
		if r != nil {
			outputs[open[i]] = r.OutPath
		}
	}
	return outputs, nil
}
