package main

import (
	"context"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// missingJSON is what `build --dry-run --json` prints.
type missingJSON struct {
	WillBuild      []string `json:"willBuild"`
	WillSubstitute []string `json:"willSubstitute"`
	Unknown        []string `json:"unknown"`
	DownloadSize   uint64   `json:"downloadSize"` // bytes
	NarSize        uint64   `json:"narSize"`      // bytes
}

// printMissing prints what would have to be done for targets.
func printMissing(ctx context.Context, g *globals, st store.Store, targets []derivation.DerivedPath, json bool) error {
	p, err := store.Need[store.Planner](st, "queryMissing")
	if err != nil {
		return err
	}
	m, err := p.QueryMissing(ctx, targets)
	if err != nil {
		return err
	}
	dir := st.Dir()
	if json {
		return g.out.printJSON(missingJSON{
			WillBuild: dir.PrintAll(m.WillBuild), WillSubstitute: dir.PrintAll(m.WillSubstitute), Unknown: dir.PrintAll(m.Unknown),
			DownloadSize: m.DownloadSize, NarSize: m.NarSize,
		})
	}
	for _, part := range []struct {
		one, many string
		paths     []storepath.Path
	}{
		{"1 derivation will be built:", "%d derivations will be built:", m.WillBuild},
		{"1 path will be fetched:", "%d paths will be fetched:", m.WillSubstitute},
		{"1 path is not to be had:", "%d paths are not to be had:", m.Unknown},
	} {
		if err := printPart(g.out, dir, part.one, part.many, part.paths); err != nil {
			return err
		}
	}
	if len(m.WillSubstitute) > 0 {
		return g.out.printf("%s to download, %s unpacked\n", size(m.DownloadSize), size(m.NarSize))
	}
	return nil
}

func printPart(out *output, dir storepath.Dir, one, many string, paths []storepath.Path) error {
	if len(paths) == 0 {
		return nil
	}
	var err error
	if len(paths) == 1 {
		err = out.println(one)
	} else {
		err = out.printf(many+"\n", len(paths))
	}
	for _, p := range paths {
		if err == nil {
			err = out.println("  " + dir.Print(p))
		}
	}
	return err
}
