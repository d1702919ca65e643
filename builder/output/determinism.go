package output

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// check compares the outputs with those that are valid.
func (r *registration) check(ctx context.Context, order []string) (*Result, error) {
	paths := make([]storepath.Path, len(order)) // nothing is passed over in check mode
	for i, name := range order {
		paths[i] = r.made[name].info.Path
	}
	valid, err := r.s.PathInfos(ctx, paths)
	if err != nil {
		return nil, err
	}
	var verified []*store.PathInfo
	for i, name := range order {
		m := r.made[name]
		if same, err := r.same(ctx, m, valid[i]); err != nil {
			return nil, err
		} else if !same {
			return nil, r.differs(ctx, m)
		}
		if old := valid[i]; old != nil && !old.Ultimate {
			// What we have built ourselves needs nobody's word.
			old = old.Clone()
			old.Ultimate = true
			if err := r.sign(old); err != nil {
				return nil, err
			}
			verified = append(verified, old)
		}
	}
	if err := r.checks(ctx); err != nil {
		return nil, err
	}
	if len(verified) > 0 {
		if err := r.reg.Register(ctx, verified); err != nil {
			return nil, err
		}
	}
	r.removeScratch(ctx)
	return &Result{}, nil
}

// same tells whether an output is what it was before: old is the info of the path
// that it has now, if that is valid.
func (r *registration) same(ctx context.Context, m *made, old *store.PathInfo) (bool, error) {
	switch {
	case m.spec.Kind == derivation.Floating && m.Valid && m.info.Path != m.Path:
		return false, nil
	case old == nil || m.info.Path == m.Path && !m.info.CA.IsZero():
		return true, nil // or the path says it all
	case m.info.NarHash.IsZero():
		h := sha256.New()
		if err := m.tree.dump(ctx, h); err != nil {
			return false, r.damage(err)
		}
		m.info.NarHash = nixhash.Sum(nixhash.SHA256, h)
	}
	return m.info.NarHash == old.NarHash, nil
}

// differs is the failure of an output that is not what it was before; it keeps the
// output if anybody wants to see it.
func (r *registration) differs(ctx context.Context, m *made) error {
	old := m.Path
	if old.IsZero() {
		old = m.info.Path
	}
	f := &Failure{Status: store.NotDeterministic, Message: fmt.Sprintf(
		"derivation '%s' may not be deterministic: output \"%s\" differs", r.drv(), r.realPath(old))}
	if !r.o.KeepFailed && r.o.DiffHook == "" {
		return f
	}
	kept := r.realPath(old) + ".check"
	if _, err := nar.RemoveTree(ctx, kept); err != nil {
		return fmt.Errorf("keeping an output that differs: %w", err)
	}
	if err := r.materialise(ctx, m, kept); err != nil {
		return fmt.Errorf("keeping an output that differs: %w", err)
	}
	if r.o.DiffHook != "" {
		r.runDiffHook(ctx, r.dir.Print(old), kept)
	}
	f.Message += fmt.Sprintf(" from \"%s\"", kept)
	return f
}
