package storepath

import (
	"maps"
	"slices"
)

// Set is a set of store paths.
type Set map[Path]struct{}

// NewSet makes a set of paths.
func NewSet(paths ...Path) Set {
	s := make(Set, len(paths))
	for _, p := range paths {
		s[p] = struct{}{}
	}
	return s
}

// Add puts a path in, and tells whether it was new.
func (s Set) Add(p Path) bool {
	if _, ok := s[p]; ok {
		return false
	}
	s[p] = struct{}{}
	return true
}

// Has tells whether the path is in the set.
func (s Set) Has(p Path) bool {
	_, ok := s[p]
	return ok
}

// Sorted lists the paths in order.
func (s Set) Sorted() []Path { return slices.SortedFunc(maps.Keys(s), Compare) }

// SortUnique sorts paths in place and drops doubles.
func SortUnique(paths []Path) []Path {
	slices.SortFunc(paths, Compare)
	return slices.Compact(paths)
}

// Missing gives those of paths that are not in the set, in their order.
func (s Set) Missing(paths []Path) []Path {
	rest := make([]Path, 0, len(paths))
	for _, p := range paths {
		if !s.Has(p) {
			rest = append(rest, p)
		}
	}
	return rest
}
