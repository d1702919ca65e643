package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/strata-nix/strata/storepath"
)

// graph is a store of nothing but references: "a: b c" makes a refer to b and c.
type graph struct {
	infos   map[storepath.Path]*PathInfo
	queries int
}

func newGraph(t *testing.T, lines ...string) *graph {
	t.Helper()
	g := &graph{infos: map[storepath.Path]*PathInfo{}}
	for _, line := range lines {
		name, refs, _ := strings.Cut(line, ":")
		info := &PathInfo{Path: node(t, name)}
		for _, r := range strings.Fields(refs) {
			info.References = append(info.References, node(t, r))
		}
		g.infos[info.Path] = info
	}
	return g
}

func node(t *testing.T, name string) storepath.Path {
	t.Helper()
	p, err := storepath.ParseBase(strings.Repeat("0", storepath.HashPartLen) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (g *graph) Dir() storepath.Dir { return storepath.DefaultDir }
func (g *graph) URI() string        { return "graph" }
func (g *graph) Close() error       { return nil }

func (g *graph) ValidPaths(_ context.Context, paths []storepath.Path) (valid []storepath.Path, _ error) {
	for _, p := range paths {
		if g.infos[p] != nil {
			valid = append(valid, p)
		}
	}
	return valid, nil
}

func (g *graph) PathInfos(_ context.Context, paths []storepath.Path) (infos []*PathInfo, _ error) {
	g.queries++
	for _, p := range paths {
		infos = append(infos, g.infos[p])
	}
	return infos, nil
}

func (g *graph) Referrers(_ context.Context, paths []storepath.Path) ([][]storepath.Path, error) {
	g.queries++
	lists := make([][]storepath.Path, len(paths))
	for i, p := range paths {
		for _, info := range g.infos {
			for _, r := range info.References {
				if r == p {
					lists[i] = append(lists[i], info.Path)
				}
			}
		}
	}
	return lists, nil
}

func names(infos []*PathInfo) string {
	var s []string
	for _, info := range infos {
		s = append(s, info.Path.Name())
	}
	return strings.Join(s, " ")
}

func TestClosureAsksOncePerLevel(t *testing.T) {
	g := newGraph(t, "a: b c a", "b: d", "c: d", "d:", "other: a")
	infos, err := Closure(t.Context(), g, []storepath.Path{node(t, "a"), node(t, "a")})
	if err != nil || names(infos) != "d b c a" {
		t.Errorf("%q, %v", names(infos), err)
	}
	if g.queries != 3 {
		t.Errorf("%d queries for three levels", g.queries)
	}
	if infos, err := Closure(t.Context(), g, nil); err != nil || len(infos) != 0 {
		t.Errorf("closure of nothing: %q, %v", names(infos), err)
	}
}

func TestClosureNamesWhatIsNotValid(t *testing.T) {
	g := newGraph(t, "a: b", "b: gone")
	_, err := Closure(t.Context(), g, []storepath.Path{node(t, "a")})
	if !errors.Is(err, ErrNotValid) || !strings.Contains(err.Error(), "-gone") {
		t.Errorf("%v", err)
	}
}

// far is a graph that finds closures by itself, if err allows.
type far struct {
	*graph
	err error
}

func (f *far) QueryClosure(_ context.Context, paths []storepath.Path) (all []*PathInfo, _ error) {
	if f.err != nil {
		return nil, f.err
	}
	for _, info := range f.infos {
		all = append(all, info)
	}
	return all, nil
}

func TestClosureOfAClosureQuerier(t *testing.T) {
	lost := errors.New("lost")
	for _, test := range []struct {
		err, want error
		queries   int
	}{{nil, nil, 0}, {&UnsupportedError{Op: "closure"}, nil, 3}, {lost, lost, 0}} {
		f := &far{newGraph(t, "a: b", "b: c", "c:"), test.err}
		infos, err := Closure(t.Context(), f, []storepath.Path{node(t, "a")})
		if err != test.want || err == nil && names(infos) != "c b a" || f.queries != test.queries {
			t.Errorf("%v: %q, %v after %d queries", test.err, names(infos), err, f.queries)
		}
	}
}

func TestWalkClosureInPieces(t *testing.T) {
	g := newGraph(t, "a: b c d e", "b: c", "c: gone", "d:", "e:")
	var got []string
	err := WalkClosure(t.Context(), g, []storepath.Path{node(t, "a")}, 2, func(asked []storepath.Path, infos []*PathInfo) error {
		var s []string
		for i, p := range asked {
			s = append(s, fmt.Sprint(p.Name(), infos[i] != nil))
		}
		got = append(got, strings.Join(s, " "))
		return nil
	})
	if fmt.Sprint(got) != "[atrue btrue ctrue dtrue etrue gonefalse]" || !errors.Is(err, ErrNotValid) {
		t.Errorf("%q, %v", got, err)
	}
	full := errors.New("full")
	err = WalkClosure(t.Context(), g, []storepath.Path{node(t, "a")}, 1, func([]storepath.Path, []*PathInfo) error { return full })
	if err != full {
		t.Errorf("%v", err)
	}
}

func TestReferrerClosure(t *testing.T) {
	g := newGraph(t, "a: b c", "b: d", "c: d", "d: d", "other:")
	paths, err := ReferrerClosure(t.Context(), g, []storepath.Path{node(t, "d")})
	if err != nil {
		t.Fatal(err)
	}
	got := storepath.NewSet(paths...).Sorted()
	if len(paths) != 4 || len(got) != 4 || got[0].Name() != "a" {
		t.Errorf("%v", paths)
	}
}

func TestSortByReferences(t *testing.T) {
	g := newGraph(t, "a: b", "b: c outside", "c: c")
	infos, _ := g.PathInfos(t.Context(), []storepath.Path{node(t, "a"), node(t, "b"), node(t, "c")})
	if sorted, err := SortByReferences(g.Dir(), infos); err != nil || names(sorted) != "c b a" {
		t.Errorf("%q, %v", names(sorted), err)
	}
	g = newGraph(t, "a: b", "b: a", "c: a")
	infos, _ = g.PathInfos(t.Context(), []storepath.Path{node(t, "c"), node(t, "a"), node(t, "b")})
	if sorted, err := SortByReferences(g.Dir(), infos); err == nil || !strings.Contains(err.Error(), "cycle") {
		t.Errorf("a cycle gave %q, %v", names(sorted), err)
	}
	// Deep graphs need no stack.
	var lines []string
	for i := range 100_000 {
		lines = append(lines, fmt.Sprintf("n%d: n%d", i, i+1))
	}
	g = newGraph(t, append(lines, "n100000:")...)
	if infos, err := Closure(t.Context(), g, []storepath.Path{node(t, "n0")}); err != nil || len(infos) != 100_001 {
		t.Errorf("%d, %v", len(infos), err)
	}
}
