package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-nix/strata/storepath"
)

// ClosureQuerier is a store that finds closures by itself: one that is far away, say.
type ClosureQuerier interface {
	// QueryClosure gives the infos of paths and of everything that they reach through references, in no
	// particular order. An [InvalidPathError] names a path that is not valid; [ErrUnsupported] says that it
	// has to be found out by asking for infos.
	QueryClosure(ctx context.Context, paths []storepath.Path) ([]*PathInfo, error)
}

// Closure gives the infos of paths and of everything that they reach through
// references, references first. It asks once per level of the graph, or once if the store
// is a [ClosureQuerier]. All of it must be valid: an [InvalidPathError] names the path that is not.
func Closure(ctx context.Context, s Store, paths []storepath.Path) ([]*PathInfo, error) {
	if q, ok := s.(ClosureQuerier); ok {
		all, err := q.QueryClosure(ctx, paths)
		if err == nil {
			return SortByReferences(s.Dir(), all)
		}
		if !errors.Is(err, ErrUnsupported) {
			return nil, err
		}
	}
	var all []*PathInfo
	err := WalkClosure(ctx, s, paths, 0, func(_ []storepath.Path, infos []*PathInfo) error {
		all = append(all, infos...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return SortByReferences(s.Dir(), all)
}

// WalkClosure calls found for paths and for everything that they reach through references, each path
// once, with their infos, at most atOnce of them at a time; 0 is a whole level of the graph. After a path that
// is not valid, whose info is nil, it ends with an [InvalidPathError].
func WalkClosure(ctx context.Context, s Store, paths []storepath.Path, atOnce int, found func([]storepath.Path, []*PathInfo) error) error {
	seen := storepath.Set{}
	for waiting := unseen(seen, nil, paths); len(waiting) > 0; {
		n := len(waiting)
		if atOnce > 0 {
			n = min(n, atOnce)
		}
		asked := waiting[:n]
		waiting = waiting[n:]
		infos, err := s.PathInfos(ctx, asked)
		if err != nil {
			return err
		}
		if err := found(asked, infos); err != nil {
			return err
		}
		for i, info := range infos {
			if info == nil {
				return &InvalidPathError{Path: s.Dir().Print(asked[i])}
			}
			waiting = unseen(seen, waiting, info.References)
		}
	}
	return nil
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
