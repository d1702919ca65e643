package main

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

type diffOptions struct{ json bool }

func newDiffCommand(g *globals) *cobra.Command {
	var o diffOptions
	cmd := &cobra.Command{
		Use:   "diff BEFORE AFTER",
		Short: "Print what differs between the closures of two paths",
		Long: `Print which packages the closures of two paths have in different versions, and how
much larger or smaller that makes them, as 'nix store diff-closures' does; then
how many paths and bytes there are in all. What lies before the first hyphen that
no letter follows is the name of a package, the rest its version; ∅ stands for
none, and ε for one without a version. Paths of the same version that differ in
their hash show only if the size changes by 8 KiB or more.`,
		Example: "  strata diff /nix/var/nix/profiles/system-41-link /nix/var/nix/profiles/system-42-link",
		Args:    exactlyTwo,
		RunE:    runner(func(ctx context.Context, args []string) error { return runDiff(ctx, g, o, args) }),
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func runDiff(ctx context.Context, g *globals, o diffOptions, args []string) error {
	paths, err := g.objects(args)
	if err != nil {
		return err
	}
	return g.with(ctx, func(st store.Store) error {
		before, err := closureOf(ctx, st, paths[:1])
		if err != nil {
			return err
		}
		after, err := closureOf(ctx, st, paths[1:])
		if err != nil {
			return err
		}
		d := newClosureDiff(before, after)
		if o.json {
			return g.out.printJSON(d)
		}
		return d.print(g.out)
	})
}

// closureDiff is what differs between two closures.
type closureDiff struct {
	Packages map[string]*packageDiff `json:"packages"`
	Before   closureTotal            `json:"before"`
	After    closureTotal            `json:"after"`
	// Common and what follows is about paths, not versions.
	Common  int `json:"commonPaths"`
	Added   int `json:"addedPaths"`
	Removed int `json:"removedPaths"`
}

// closureTotal is how much is in a closure.
type closureTotal struct {
	Paths   int    `json:"paths"`
	NarSize uint64 `json:"narSize"`
}

// packageDiff is how the paths of one name differ.
type packageDiff struct {
	Before []string `json:"before"` // versions that are gone
	After  []string `json:"after"`  // versions that are new
	Delta  int64    `json:"sizeDelta"`
}

// shownDelta is from which change of its size on a package shows, in bytes, if
// its versions are the same.
const shownDelta = 8 << 10

func newClosureDiff(before, after []*store.PathInfo) *closureDiff {
	d := &closureDiff{Packages: map[string]*packageDiff{}, Before: totalOf(before), After: totalOf(after)}
	was, is := packagesOf(before), packagesOf(after)
	names := map[string]bool{}
	for _, packages := range []map[string]*versions{was, is} {
		for name := range packages {
			names[name] = true
		}
	}
	for name := range names {
		p := diffVersions(was[name], is[name])
		if len(p.Before)+len(p.After) > 0 || p.Delta >= shownDelta || p.Delta <= -shownDelta {
			d.Packages[name] = p
		}
	}
	old := storepath.NewSet(pathsOf(before)...)
	for _, info := range after {
		if old.Has(info.Path) {
			d.Common++
		}
	}
	d.Added, d.Removed = len(after)-d.Common, len(before)-d.Common
	return d
}

func totalOf(infos []*store.PathInfo) closureTotal {
	return closureTotal{Paths: len(infos), NarSize: totalSize(infos)}
}

// versions is what there is of one package.
type versions struct {
	has  map[string]bool
	size uint64
}

func packagesOf(infos []*store.PathInfo) map[string]*versions {
	packages := map[string]*versions{}
	for _, info := range infos {
		name, version := splitName(info.Path.Name())
		v := packages[name]
		if v == nil {
			v = &versions{has: map[string]bool{}}
			packages[name] = v
		}
		v.has[version] = true
		v.size += info.NarSize
	}
	return packages
}

// outputSuffix is what an output's name may look like at the end of that of a
// path. Some versions look like that, too.
var outputSuffix = regexp.MustCompile(`-([a-z]+|lib32|lib64)$`)

// splitName divides the name of a path as Nix does.
// Source: the Nix manual, builtins.parseDrvName; src/nix/diff-closures.cc.
func splitName(full string) (name, version string) {
	if at := outputSuffix.FindStringIndex(full); at != nil {
		full = full[:at[0]]
	}
	for i := range len(full) - 1 {
		if next := full[i+1] | 0x20; full[i] == '-' && (next < 'a' || next > 'z') {
			return full[:i], full[i+1:]
		}
	}
	return full, ""
}

// diffVersions compares; either may be nil.
func diffVersions(was, is *versions) *packageDiff {
	if was == nil {
		was = &versions{}
	}
	if is == nil {
		is = &versions{}
	}
	p := &packageDiff{Before: []string{}, After: []string{}, Delta: int64(is.size) - int64(was.size)} //nolint:gosec // sizes of what exists
	for _, v := range slices.Sorted(maps.Keys(was.has)) {
		if !is.has[v] {
			p.Before = append(p.Before, v)
		}
	}
	for _, v := range slices.Sorted(maps.Keys(is.has)) {
		if !was.has[v] {
			p.After = append(p.After, v)
		}
	}
	return p
}

func (d *closureDiff) print(out *output) error {
	for _, name := range slices.Sorted(maps.Keys(d.Packages)) {
		p := d.Packages[name]
		var parts []string
		if len(p.Before)+len(p.After) > 0 {
			parts = append(parts, showVersions(p.Before)+" → "+showVersions(p.After))
		}
		if p.Delta >= shownDelta || p.Delta <= -shownDelta {
			parts = append(parts, sizeDelta(p.Delta))
		}
		if err := out.println(name + ": " + strings.Join(parts, ", ")); err != nil {
			return err
		}
	}
	delta := int64(d.After.NarSize) - int64(d.Before.NarSize) //nolint:gosec // sizes of what exists
	return out.printf("total: %d → %d paths (%d added, %d removed), %s → %s, %s\n", d.Before.Paths, d.After.Paths, d.Added, d.Removed,
		size(d.Before.NarSize), size(d.After.NarSize), sizeDelta(delta))
}

func showVersions(list []string) string {
	if len(list) == 0 {
		return "∅"
	}
	shown := slices.Clone(list)
	for i, v := range shown {
		if v == "" {
			shown[i] = "ε"
		}
	}
	return strings.Join(shown, ", ")
}

func sizeDelta(n int64) string {
	if n < 0 {
		return fmt.Sprintf("-%s", size(uint64(-n)))
	}
	return fmt.Sprintf("+%s", size(uint64(n)))
}
