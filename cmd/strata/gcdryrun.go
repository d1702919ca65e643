package main

import (
	"cmp"
	"context"
	"slices"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// dryRunJSON is what a garbage collection would do.
type dryRunJSON struct {
	gcJSON
	Measured  bool           `json:"measured"`
	Survivors []survivorJSON `json:"survivors"`
}

type survivorJSON struct {
	Path    string `json:"path"`
	NarSize uint64 `json:"narSize"`
	reasonJSON
}

// printDryRun prints the result of a collection that deleted nothing. What the store
// could not tell, since it is on the other side of a daemon, is found out.
func printDryRun(ctx context.Context, out *output, st store.Store, r *store.GCResult, survivors int) error {
	if !r.Measured && survivors > 0 {
		var err error
		if r.Survivors, err = largestAlive(ctx, st, survivors); err != nil {
			return err
		}
	}
	j := dryRunJSON{
		gcJSON:   gcJSON{append([]string{}, r.Paths...), r.BytesFreed},
		Measured: r.Measured, Survivors: make([]survivorJSON, len(r.Survivors)),
	}
	for i, s := range r.Survivors {
		j.Survivors[i] = survivorJSON{st.Dir().Print(s.Path), s.NarSize, reasonJSONOf(st.Dir(), s.Why)}
	}
	return out.printJSON(j)
}

// askInfos is how many path infos are asked for at once.
const askInfos = 1000

// largestAlive asks what is alive, and why the largest of it is.
func largestAlive(ctx context.Context, st store.Store, n int) ([]store.Survivor, error) {
	c, err := store.Need[store.Collector](st, "collectGarbage")
	if err != nil {
		return nil, err
	}
	live, err := c.CollectGarbage(ctx, store.GCOptions{Action: store.ReturnLive, MaxFreed: store.NoLimit})
	if err != nil {
		return nil, err
	}
	var largest []store.Survivor
	for chunk := range slices.Chunk(live.Paths, askInfos) {
		paths := make([]storepath.Path, 0, len(chunk))
		for _, text := range chunk {
			p, err := st.Dir().Parse(text)
			if err != nil {
				return nil, err
			}
			paths = append(paths, p)
		}
		infos, err := st.PathInfos(ctx, paths)
		if err != nil {
			return nil, err
		}
		for _, info := range infos {
			if info != nil {
				largest = append(largest, store.Survivor{Path: info.Path, NarSize: info.NarSize})
			}
		}
		slices.SortFunc(largest, func(a, b store.Survivor) int {
			return cmp.Or(cmp.Compare(b.NarSize, a.NarSize), storepath.Compare(a.Path, b.Path))
		})
		largest = largest[:min(n, len(largest))]
	}
	paths := make([]storepath.Path, len(largest))
	for i, s := range largest {
		paths[i] = s.Path
	}
	reasons, err := whyAlive(ctx, st, paths, true)
	if err != nil {
		return nil, err
	}
	for i, r := range reasons {
		if len(r) > 0 {
			largest[i].Why = r[0]
		}
	}
	return largest, nil
}
