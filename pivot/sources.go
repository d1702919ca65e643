package pivot

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// askSources asks other stores for what no lower has. What one has with the right hash is
// planned as a copy and taken out of lost. A store that cannot be asked is passed over: what
// nobody has stays missing. But nothing is dropped then, as it may be to be had.
func (m *maker) askSources(ctx context.Context, lost map[storepath.Path]*store.PathInfo) error {
	if m.Sources == nil {
		return nil
	}
	sources, err := m.Parts.Sources(ctx)
	if err != nil {
		return err
	}
	var silent []string
	for _, s := range sources {
		if s.Err != nil {
			silent = append(silent, s.Name)
			continue
		}
		for chunk := range slices.Chunk(slices.SortedFunc(maps.Keys(lost), storepath.Compare), batch) {
			infos, err := s.Store.PathInfos(ctx, chunk)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				activity.Warnf(ctx, "asking '%s' for what old lowers had: %v", s.Name, err)
				silent = append(silent, s.Name)
			}
			if len(infos) != len(chunk) {
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
	if len(silent) > 0 && len(lost) > 0 && m.o.DropMissing {
		return store.Inconclusive(fmt.Errorf("%d paths that no lower has are not dropped, since '%s' could not be asked for them; to go on without it, give the others by --option substituters 'URI…', or '' if there are none",
			len(lost), strings.Join(slices.Compact(silent), "', '")))
	}
	return nil
}
