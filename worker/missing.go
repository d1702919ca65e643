package worker

import (
	"context"
	"slices"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// queryMissing asks the store what is missing. A store that cannot plan has no
// means to get anything, but it knows what is valid, which is all that a client
// needs who asks for what is there.
func queryMissing(ctx context.Context, st store.Store, targets []derivation.DerivedPath) (*store.Missing, error) {
	if p, ok := store.As[store.Planner](st); ok {
		return p.QueryMissing(ctx, targets)
	}
	m := new(store.Missing)
	for _, t := range targets {
		if err := addMissing(ctx, st, t, m); err != nil {
			return nil, err
		}
	}
	m.WillBuild = storepath.SortUnique(m.WillBuild)
	m.Unknown = storepath.SortUnique(m.Unknown)
	return m, nil
}

func nothing(m *store.Missing) bool {
	return len(m.WillBuild) == 0 && len(m.WillSubstitute) == 0 && len(m.Unknown) == 0
}

// addMissing adds to m what is missing of one target.
func addMissing(ctx context.Context, st store.Store, t derivation.DerivedPath, m *store.Missing) error {
	valid, err := st.ValidPaths(ctx, []storepath.Path{t.Path})
	if err != nil {
		return err
	}
	if len(valid) == 0 {
		m.Unknown = append(m.Unknown, t.Path)
		return nil
	}
	if t.IsOpaque() {
		return nil
	}
	q, ok := store.As[store.OutputQuerier](st)
	if !ok || len(t.Through) > 0 {
		m.WillBuild = append(m.WillBuild, t.Path)
		return nil
	}
	outputs, err := q.DerivationOutputs(ctx, t.Path)
	if err != nil {
		return err
	}
	var wanted []storepath.Path
	for name, p := range outputs {
		if t.WantsAll() || slices.Contains(t.Outputs, name) {
			wanted = append(wanted, p)
		}
	}
	known := slices.DeleteFunc(slices.Clone(wanted), storepath.Path.IsZero)
	there, err := st.ValidPaths(ctx, known)
	if err != nil {
		return err
	}
	if len(there) < len(wanted) || !t.WantsAll() && len(wanted) < len(t.Outputs) {
		m.WillBuild = append(m.WillBuild, t.Path)
	}
	return nil
}
