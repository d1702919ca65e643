package store

import (
	"context"
	"fmt"

	"github.com/strata-nix/strata/storepath"
)

// Closure gives the infos of paths and of everything that they reach through
// references, references first. It asks once per level of the graph. All of it
// must be valid: an [InvalidPathError] names the path that is not.
func Closure(ctx context.Context, s Store, paths []storepath.Path) ([]*PathInfo, error) {
	seen := storepath.Set{}
	var all []*PathInfo
	for level := unseen(seen, nil, paths); len(level) > 0; {
		infos, err := s.PathInfos(ctx, level)
		if err != nil {
			return nil, err
		}
		var next []storepath.Path
		for i, info := range infos {
			if info == nil {
				return nil, &InvalidPathError{Path: s.Dir().Print(level[i])}
			}
			next = unseen(seen, next, info.References)
		}
		all = append(all, infos...)
		level = next
	}
	return SortByReferences(s.Dir(), all)
}

// ReferrerClosure gives paths and everything that reaches them through
// references, in no particular order. It asks once per level of the graph.
func ReferrerClosure(ctx context.Context, q ReferrerQuerier, paths []storepath.Path) ([]storepath.Path, error) {
	seen := storepath.Set{}
	var all []storepath.Path
	for level := unseen(seen, nil, paths); len(level) > 0; {
		all = append(all, level...)
		lists, err := q.Referrers(ctx, level)
		if err != nil {
			return nil, err
		}
		level = nil
		for _, list := range lists {
			level = unseen(seen, level, list)
		}
	}
	return all, nil
}

// unseen appends to list those of paths that are new to seen.
func unseen(seen storepath.Set, list, paths []storepath.Path) []storepath.Path {
	for _, p := range paths {
		if seen.Add(p) {
			list = append(list, p)
		}
	}
	return list
}

// SortByReferences puts infos in an order in which what an object refers to
// comes before it, as far as it is among infos. The order depends on nothing but
// theirs. A cycle is an error that names one path of it.
func SortByReferences(dir storepath.Dir, infos []*PathInfo) ([]*PathInfo, error) {
	at := make(map[storepath.Path]int, len(infos))
	for i, info := range infos {
		at[info.Path] = i
	}
	waits := make([]int, len(infos)) // references that are not in sorted yet
	referrers := make([][]int, len(infos))
	for i, info := range infos {
		for _, r := range info.References {
			if j, ok := at[r]; ok && j != i {
				waits[i]++
				referrers[j] = append(referrers[j], i)
			}
		}
	}
	sorted := make([]*PathInfo, 0, len(infos))
	for i, info := range infos {
		if waits[i] == 0 {
			sorted = append(sorted, info)
		}
	}
	for n := 0; n < len(sorted); n++ {
		for _, i := range referrers[at[sorted[n].Path]] {
			if waits[i]--; waits[i] == 0 {
				sorted = append(sorted, infos[i])
			}
		}
	}
	if len(sorted) < len(infos) {
		for i, info := range infos {
			if waits[i] > 0 {
				return nil, fmt.Errorf("cycle detected in the references of '%s'", dir.Print(info.Path))
			}
		}
		return nil, fmt.Errorf("%d paths are listed twice", len(infos)-len(sorted))
	}
	return sorted, nil
}
