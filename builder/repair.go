package builder

import (
	"context"
	"fmt"
	"slices"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// damage is a path in the closure of an output that is not what it should be.
type damage struct {
	path storepath.Path
	drv  storepath.Path // that makes it, zero if that is not known
}

// repairClosure goes on with an output that is intact: what it refers to must
// be too.
func (r *request) repairClosure(ctx context.Context, o *output) {
	r.spawn(ctx, func(ctx context.Context) step {
		found, err := r.examineClosure(ctx, o)
		return func(ctx context.Context) error {
			if err != nil {
				return err
			}
			r.mend(ctx, o, found)
			return nil
		}
	})
}

// mend repairs what was found.
func (r *request) mend(ctx context.Context, o *output, found []damage) {
	dir := r.Store.Dir()
	goals := make([]*goal, len(found))
	for i, d := range found {
		activity.Errorf(ctx, "found corrupted or missing path '%s' in the output closure of '%s'", dir.Print(d.path), dir.Print(o.node.path))
		if d.drv.IsZero() {
			goals[i] = &r.path(d.path, storepath.ContentAddress{}, true).goal
		} else {
			goals[i] = &r.target(derivation.DerivedPath{Path: d.drv, Outputs: []string{derivation.AllOutputs}}, store.BuildRepair).goal
		}
	}
	r.await(goals, func(ctx context.Context, w *wait) error {
		if w.failed > 0 {
			return fmt.Errorf("some paths in the output closure of derivation '%s' could not be repaired", dir.Print(o.node.path))
		}
		r.haveOutput(ctx, o, store.AlreadyValid)
		return nil
	})
}

// examineClosure compares all that an output refers to with its hash, other
// outputs of the derivation excepted.
func (r *request) examineClosure(ctx context.Context, o *output) ([]damage, error) {
	infos, err := store.Closure(ctx, r.Store, []storepath.Path{o.path})
	if err != nil {
		return nil, err
	}
	var found []damage
	for _, info := range infos {
		if info.Path == o.path || slices.Contains(pathsOf(o.node.known), info.Path) {
			continue
		}
		good, err := r.intact(ctx, info.Path)
		if err != nil {
			return nil, err
		}
		if !good {
			found = append(found, damage{path: info.Path})
		}
	}
	if len(found) == 0 {
		return nil, nil
	}
	makers, err := r.makers(ctx, o.node.path)
	for i := range found {
		found[i].drv = makers[found[i].path]
	}
	return found, err
}

// makers tells which derivations that one is built from make which paths.
func (r *request) makers(ctx context.Context, drv storepath.Path) (map[storepath.Path]storepath.Path, error) {
	valid, err := r.Store.ValidPaths(ctx, []storepath.Path{drv})
	if err != nil || len(valid) == 0 {
		return nil, err // it was sent along
	}
	infos, err := store.Closure(ctx, r.Store, valid)
	if err != nil {
		return nil, err
	}
	makers := map[storepath.Path]storepath.Path{}
	for _, info := range infos {
		if !info.Path.IsDerivation() {
			continue
		}
		outputs, err := r.Store.DerivationOutputs(ctx, info.Path)
		if err != nil {
			return nil, err
		}
		for _, p := range outputs {
			if !p.IsZero() {
				makers[p] = info.Path
			}
		}
	}
	return makers, nil
}

func pathsOf(outputs map[string]storepath.Path) []storepath.Path {
	paths := make([]storepath.Path, 0, len(outputs))
	for _, p := range outputs {
		paths = append(paths, p)
	}
	return paths
}
