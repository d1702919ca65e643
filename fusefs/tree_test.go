package fusefs_test

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/fusefs"
)

// shape is a tree as tests write it.
type shape struct {
	fusefs.Node
	entries map[string]*shape
}

func build(s *shape) (*fusefs.Tree, error) {
	return fusefs.BuildTree(s, func(s *shape) fusefs.Node { return s.Node }, func(s *shape) iter.Seq2[string, *shape] { return maps.All(s.entries) })
}

func randomShape(r *rand.Rand, depth int) *shape {
	switch kind := r.IntN(5); {
	case kind == 0 && depth > 0:
		target := strings.Repeat("t", 1+r.IntN(50))
		return &shape{Node: fusefs.Node{Kind: fusefs.Symlink, Size: int64(len(target)), Target: target}}
	case kind < 3 && depth > 0:
		return &shape{Node: fusefs.Node{Kind: fusefs.Regular + fusefs.Kind(kind&1), Size: r.Int64N(1 << 40)}}
	}
	s := &shape{Node: fusefs.Node{Kind: fusefs.Directory}, entries: map[string]*shape{}}
	if depth < 5 {
		for range r.IntN(8) {
			s.entries[fmt.Sprintf("%c%d\xff", 'a'+r.IntN(26), r.IntN(1000))] = randomShape(r, depth+1)
		}
	}
	return s
}

// check compares a tree with the shape that it was built of.
func check(t *testing.T, tree *fusefs.Tree, n uint32, s *shape, path string) {
	t.Helper()
	if got := tree.Node(n); got != s.Node || tree.Path(n) != path {
		t.Fatalf("node %d is %+v at %q, want %+v at %q", n, got, tree.Path(n), s.Node, path)
	}
	first, end := tree.Entries(n)
	if int(end-first) != len(s.entries) {
		t.Fatalf("%q has %d entries, want %d", path, end-first, len(s.entries))
	}
	for i, name := range slices.Sorted(maps.Keys(s.entries)) {
		e, ok := tree.Find(n, name)
		if !ok || e != first+uint32(i) || tree.Name(e) != name || tree.Parent(e) != n {
			t.Fatalf("%q in %q: %d, %v", name, path, e, ok)
		}
		at := name
		if path != "" {
			at = path + "/" + name
		}
		check(t, tree, e, s.entries[name], at)
	}
	if _, ok := tree.Find(n, "absent"); ok {
		t.Fatal("it has what is not there")
	}
}

func TestTreesAreWhatTheyWereBuiltOf(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		s := randomShape(r, 0)
		tree, err := build(s)
		if err != nil {
			t.Fatal(err)
		}
		check(t, tree, 0, s, "")
		again, err := fusefs.DecodeTree(bytes.Clone(tree.Encoded()))
		if err != nil {
			t.Fatal(err)
		}
		check(t, again, 0, s, "")
	}
}

func TestWhatCannotBeATree(t *testing.T) {
	dir := fusefs.Node{Kind: fusefs.Directory}
	file := &shape{Node: fusefs.Node{Kind: fusefs.Regular}}
	deep := file
	for range 64 {
		deep = &shape{dir, map[string]*shape{"d": deep}}
	}
	for name, s := range map[string]*shape{
		"no kind":     {},
		"size":        {Node: fusefs.Node{Kind: fusefs.Regular, Size: -1}},
		"target":      {Node: fusefs.Node{Kind: fusefs.Symlink}},
		"zero target": {Node: fusefs.Node{Kind: fusefs.Symlink, Target: "a\x00"}},
		"empty name":  {dir, map[string]*shape{"": file}},
		"dot":         {dir, map[string]*shape{".": file}},
		"dots":        {dir, map[string]*shape{"..": file}},
		"slash":       {dir, map[string]*shape{"a/b": file}},
		"zero":        {dir, map[string]*shape{"a\x00": file}},
		"long name":   {dir, map[string]*shape{strings.Repeat("n", 256): file}},
		"too deep":    deep,
	} {
		if _, err := build(s); !errors.Is(err, fusefs.ErrTree) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDecodeTree wants every tree that is accepted to have one encoding, and all that can
// be asked of it to have an answer.
func FuzzDecodeTree(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		tree, err := fusefs.DecodeTree(data)
		if err != nil {
			if !errors.Is(err, fusefs.ErrTree) {
				t.Fatal(err)
			}
			return
		}
		again, err := fusefs.BuildTree(uint32(0), tree.Node, func(n uint32) iter.Seq2[string, uint32] {
			return func(yield func(string, uint32) bool) {
				first, end := tree.Entries(n)
				for e := first; e < end && yield(tree.Name(e), e); e++ {
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.Encoded(), data) {
			t.Fatalf("%q has another encoding, %q", data, again.Encoded())
		}
		for n := range tree.Len() {
			_ = tree.Path(n)
		}
	})
}
