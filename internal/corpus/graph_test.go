package corpus

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"

	"github.com/strata-nix/strata/internal/debian"
	"github.com/strata-nix/strata/storepath"
)

// suiteText has a cycle (a, b), a provider (mail), alternatives, a dependency on
// something that does not exist, and one on itself.
const suiteText = `Package: a
Version: 1:1.0~rc1
Architecture: amd64
Depends: b (>= 2), missing | c, a
SHA256: aa

Package: b
Version: 2
Architecture: all
Pre-Depends: a
Depends: mail-reader
SHA256: bb

Package: c
Version: 3
Architecture: amd64
SHA256: cc

Package: mutt
Version: 4
Architecture: amd64
Provides: mail-reader (= 1), imap-client
Depends: nothing-like-it
SHA256: dd
`

func testGraph(t *testing.T) *graph {
	t.Helper()
	pkgs, err := debian.ParseStanzas(strings.NewReader(suiteText))
	if err != nil {
		t.Fatal(err)
	}
	return newGraph(pkgs)
}

func TestGraphHasNoCycleAndOrdersDependenciesFirst(t *testing.T) {
	g := testGraph(t)
	want := [][]int{{1, 2}, {3}, nil, nil}
	if !slices.EqualFunc(g.refs, want, slices.Equal) || g.dropped != 1 {
		t.Errorf("references %v, %d dropped; want %v, 1", g.refs, g.dropped, want)
	}
	for pos, i := range g.order {
		for _, dep := range g.refs[i] {
			if slices.Index(g.order, dep) > pos {
				t.Errorf("%s comes before its dependency %s", g.pkgs[i].Name, g.pkgs[dep].Name)
			}
		}
	}
	if len(g.order) != len(g.pkgs) {
		t.Errorf("order %v", g.order)
	}
}

func TestChangedDependencyChangesThePathsAboveIt(t *testing.T) {
	g := testGraph(t)
	before, err := g.paths(0)
	if err != nil {
		t.Fatal(err)
	}
	g.pkgs[3].SHA256 = "changed" // mutt, below b, below a
	after, err := g.paths(0)
	if err != nil {
		t.Fatal(err)
	}
	for i, same := range []bool{false, false, true, false} {
		if (before[i] == after[i]) != same {
			t.Errorf("%s: %s, then %s", g.pkgs[i].Name, before[i], after[i])
		}
	}
	other, err := g.paths(1)
	if err != nil {
		t.Fatal(err)
	}
	if other[2] == after[2] {
		t.Error("another variant has the same paths")
	}
}

func TestCompiledPackagesReferToThemselves(t *testing.T) {
	g := testGraph(t)
	paths, err := g.paths(0)
	if err != nil {
		t.Fatal(err)
	}
	for i, self := range []bool{true, false, true, true} {
		if got := slices.Contains(g.references(i, paths), paths[i]); got != self {
			t.Errorf("%s refers to itself: %t", g.pkgs[i].Name, got)
		}
	}
}

func TestClosureStatistics(t *testing.T) {
	g := testGraph(t)
	paths, err := g.paths(0)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	g.writeClosures(&out, "s", paths, 1)
	want := "closure s 4 " + storepath.DefaultDir.Print(paths[0]) + "\nmedian-closure s 1 " + storepath.DefaultDir.Print(paths[2]) + "\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestObjectNames(t *testing.T) {
	for _, c := range []struct{ pkg, version, want string }{
		{"bash", "5.2-1+b1", "bash-5.2-1+b1"},
		{"a", "1:1.0~rc1", "a-1_1.0=rc1"},
		{".hidden", "1", "hidden-1"},
		{"a/b ü", "1", "a_b__-1"},
		{strings.Repeat("x", 300), "1", strings.Repeat("x", 207)},
	} {
		got := objectName(c.pkg, c.version)
		if got != c.want {
			t.Errorf("%.20q %q: got %q, want %q", c.pkg, c.version, got, c.want)
		}
		if err := storepath.CheckName(got + storepath.DerivationSuffix); err != nil {
			t.Error(err)
		}
	}
}

// TestMetadataFromCache needs no archive: the index is in the cache already.
func TestMetadataFromCache(t *testing.T) {
	cache := t.TempDir()
	var index bytes.Buffer
	w, err := xz.NewWriter(&index)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(suiteText)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cache, "dists_s_main_binary-amd64_Packages.xz"), index.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	make := func(o MetadataOptions) (reg, stats string) {
		var r, s bytes.Buffer
		o.Suites = []string{"s"}
		if err := Metadata(t.Context(), &debian.Archive{Cache: cache}, o, &r, &s); err != nil {
			t.Fatal(err)
		}
		return r.String(), s.String()
	}
	reg, stats := make(MetadataOptions{})
	if n := strings.Count(reg, "\n/nix/store/") + 1; n < 10 || !strings.Contains(stats, "paths 4 references 6\n") {
		t.Errorf("stats:\n%sregistration:\n%s", stats, reg)
	}
	if again, _ := make(MetadataOptions{}); again != reg {
		t.Error("not the same a second time")
	}
	if cut, _ := make(MetadataOptions{Limit: 2}); !strings.HasPrefix(reg, cut) || cut == reg || cut == "" {
		t.Errorf("the limit is not a cut:\n%s", cut)
	}
	if _, stats := make(MetadataOptions{Variants: 3}); !strings.Contains(stats, "paths 12 references 18\n") {
		t.Errorf("three variants:\n%s", stats)
	}
	if bare, _ := make(MetadataOptions{NoDerivers: true}); strings.Contains(bare, ".drv") {
		t.Error("there are derivers")
	}
}
