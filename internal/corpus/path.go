package corpus

import (
	"fmt"
	"strings"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// makePath computes the path of an object whose making is described by recipe,
// as that of an input-addressed output.
func makePath(recipe, name string) (storepath.Path, error) {
	return storepath.DefaultDir.MakeOutput("out", nixhash.Of(nixhash.SHA256, recipe), name)
}

// paths gives each package of the graph its store path. Another variant gives
// another set of paths for the same graph.
func (g *graph) paths(variant int) ([]storepath.Path, error) {
	paths := make([]storepath.Path, len(g.pkgs))
	for _, i := range g.order {
		p := g.pkgs[i]
		deps := make([]storepath.Path, 0, len(g.refs[i]))
		for _, dep := range g.refs[i] {
			deps = append(deps, paths[dep])
		}
		var recipe strings.Builder
		fmt.Fprintf(&recipe, "debian %s %d\n", p.SHA256, variant)
		for _, dep := range storepath.SortUnique(deps) {
			fmt.Fprintln(&recipe, dep)
		}
		var err error
		if paths[i], err = makePath(recipe.String(), objectName(p.Name, p.Version)); err != nil {
			return nil, fmt.Errorf("package %s: %w", p.Name, err)
		}
	}
	return paths, nil
}

// deriverOf invents the derivation of a path. It is not itself in the corpus.
func deriverOf(p storepath.Path) (storepath.Path, error) {
	return makePath("deriver "+p.Base(), p.Name()+storepath.DerivationSuffix)
}

// objectName makes the name of a store object out of a package's. An epoch's
// colon and a tilde are not allowed in one; they become "_" and "=", which
// versions do not contain, so that names stay distinct.
func objectName(pkg, version string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r == '~':
			return '='
		case '0' <= r && r <= '9', 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', strings.ContainsRune("+-._?=", r):
			return r
		}
		return '_'
	}, pkg+"-"+version)
	name = strings.TrimLeft(name, ".")
	return name[:min(len(name), storepath.MaxNameLen-len(storepath.DerivationSuffix))]
}
