package corpus

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"github.com/strata-nix/strata/internal/debian"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/registration"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Suites are those the corpus is made from unless others are asked for.
var Suites = []string{"bookworm", "trixie", "forky"}

// MetadataOptions say how much Metadata makes.
type MetadataOptions struct {
	Suites     []string // nil: Suites
	Variants   int      // distinct copies of each suite's graph; 0: one
	Limit      int      // stop after so many paths, at a closed set; 0: no limit
	NoDerivers bool     // leave the derivers out
}

// suiteGraph is one suite, read and resolved.
type suiteGraph struct {
	name string
	*graph
}

// Metadata registers one path for each package version of each suite, without
// making trees: NAR sizes are what the packages say of themselves, NAR hashes
// are made up. Counts and the largest closures go to stats, one fact a line.
//
// The indices of a suite under development change daily, and the result with
// them.
func Metadata(ctx context.Context, a *debian.Archive, o MetadataOptions, out, stats io.Writer) error {
	suites := o.Suites
	if suites == nil {
		suites = Suites
	}
	graphs, err := readSuites(ctx, a, suites, stats)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(out, 1<<20)
	seen := make(storepath.Set)
	edges := 0
variants:
	for v := range max(o.Variants, 1) {
		for _, g := range graphs {
			paths, err := g.paths(v)
			if err != nil {
				return err
			}
			if v == 0 {
				g.writeClosures(stats, g.name, paths, 5)
			}
			for _, i := range g.order { // references first, so that every prefix is closed
				if o.Limit > 0 && len(seen) >= o.Limit {
					break variants
				}
				if !seen.Add(paths[i]) {
					continue // the same package with the same dependencies in two suites
				}
				info, err := g.invent(i, paths, o.NoDerivers)
				if err != nil {
					return err
				}
				w.Write(registration.Append(w.AvailableBuffer(), storepath.DefaultDir, info))
				edges += len(info.References)
			}
		}
	}
	fmt.Fprintf(stats, "paths %d references %d\n", len(seen), edges)
	return w.Flush()
}

func readSuites(ctx context.Context, a *debian.Archive, suites []string, stats io.Writer) ([]suiteGraph, error) {
	var graphs []suiteGraph
	for _, name := range suites {
		pkgs, err := a.Packages(ctx, name)
		if err != nil {
			return nil, err
		}
		g := newGraph(pkgs)
		fmt.Fprintf(stats, "suite %s packages %d cycle-edges-dropped %d\n", name, len(pkgs), g.dropped)
		graphs = append(graphs, suiteGraph{name, g})
	}
	return graphs, nil
}

// invent makes up the path info of a package whose tree is not looked at.
func (g *graph) invent(i int, paths []storepath.Path, noDeriver bool) (*store.PathInfo, error) {
	p := g.pkgs[i]
	info := &store.PathInfo{
		Path:       paths[i],
		NarHash:    nixhash.Of(nixhash.SHA256, "nar "+paths[i].Base()),
		NarSize:    p.InstalledSize * 1024,
		References: g.references(i, paths),
	}
	if info.NarSize == 0 {
		info.NarSize = p.Size + 1024
	}
	if noDeriver {
		return info, nil
	}
	var err error
	info.Deriver, err = deriverOf(paths[i])
	return info, err
}
