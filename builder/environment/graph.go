package environment

import (
	"context"
	"strconv"
	"strings"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// graph gives the infos of the closure of paths, sorted by path. What
// derivations in it produce is a part of it too, with closures: that is how a
// derivation gets hold of all that another one was built with.
func (s *Spec) graph(ctx context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	dir := s.Store.Dir()
	known := make(map[storepath.Path]*store.PathInfo, len(s.Inputs))
	for _, info := range s.Inputs {
		known[info.Path] = info
	}
	found := storepath.Set{}
	var outputs []storepath.Path
	todo := paths
	for _, p := range paths {
		if known[p] == nil {
			return nil, rejected("cannot export references of path '%s' because it is not in the input closure of the derivation", dir.Print(p))
		}
	}
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !found.Add(p) {
			continue
		}
		info := known[p]
		if info == nil {
			return nil, &store.InvalidPathError{Path: dir.Print(p)}
		}
		todo = append(todo[:len(todo):len(todo)], info.References...)
		if p.IsDerivation() {
			of, err := s.outputs(ctx, p)
			if err != nil {
				return nil, err
			}
			outputs = append(outputs, of...)
		}
	}
	if err := s.addClosure(ctx, known, found, outputs); err != nil {
		return nil, err
	}
	infos := make([]*store.PathInfo, 0, len(found))
	for _, p := range found.Sorted() {
		infos = append(infos, known[p])
	}
	return infos, nil
}

// outputs are the paths that a derivation produces.
func (s *Spec) outputs(ctx context.Context, p storepath.Path) ([]storepath.Path, error) {
	drv, err := s.Store.Derivation(ctx, p)
	if err != nil {
		return nil, err
	}
	byName, err := drv.OutputPaths(s.Store.Dir())
	if err != nil {
		return nil, err
	}
	paths := make([]storepath.Path, 0, len(byName))
	for _, out := range byName {
		if out.IsZero() {
			return nil, rejected("exportReferences on CA derivations is not yet implemented")
		}
		paths = append(paths, out)
	}
	return paths, nil
}

// addClosure adds the closure of what is not found yet.
func (s *Spec) addClosure(ctx context.Context, known map[storepath.Path]*store.PathInfo, found storepath.Set, paths []storepath.Path) error {
	if len(paths) == 0 {
		return nil
	}
	infos, err := store.Closure(ctx, s.Store, storepath.SortUnique(paths))
	if err != nil {
		return err
	}
	for _, info := range infos {
		known[info.Path] = info
		found.Add(info.Path)
	}
	return nil
}

// registration is the form of `nix-store --load-db` without hashes and derivers.
func registration(dir storepath.Dir, infos []*store.PathInfo) string {
	var b strings.Builder
	for _, info := range infos {
		b.WriteString(dir.Print(info.Path))
		b.WriteString("\n\n")
		b.WriteString(strconv.Itoa(len(info.References)))
		b.WriteByte('\n')
		for _, r := range info.References {
			b.WriteString(dir.Print(r))
			b.WriteByte('\n')
		}
	}
	return b.String()
}
