package pivot

import (
	"context"
	"maps"
	"slices"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// askSources asks other stores for what no lower has. What one has with the right hash is
// planned as a copy and taken out of lost. A store that cannot be asked is passed over: what
// nobody has stays missing, and nothing is dropped for that unless somebody says so.
func (m *maker) askSources(ctx context.Context, lost map[storepath.Path]*store.PathInfo) error {
	if m.Sources == nil {
		return nil
	}
	sources, err := m.Parts.Sources(ctx)
	if err != nil {
		return err
	}
	for _, s := range sources {
		for chunk := range slices.Chunk(slices.SortedFunc(maps.Keys(lost), storepath.Compare), batch) {
			infos, err := s.Store.PathInfos(ctx, chunk)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil && len(infos) != len(chunk) {
				activity.Warnf(ctx, "asking '%s' for what old lowers had: %v", s.Name, err)
				break
			}
			for k, p := range chunk {
				if infos[k] != nil && infos[k].NarHash == lost[p].NarHash {
					m.take(int32(m.g.Find(p)), lost[p], s.Name)
					delete(lost, p)
				}
			}
		}
	}
	return nil
}
