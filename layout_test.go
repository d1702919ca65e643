// Package strata_test holds what is true of the source tree as a whole: which
// package may import which, and what every package and file must have.
package strata_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

const module = "github.com/strata-nix/strata"

// tiers is the order of the tree. A package may import those of the tiers
// above it in this list, and not those of its own tier or below. A new package
// gets its place here; a new edge that this forbids is a reason to look for
// another cut first, and to move the package or to add to sideways second.
var tiers = [][]string{
	{ // these use nothing of ours
		"activity", "compress", "fusefs", "image", "nixconf", "nixdb/btree", "nixhash", "objstore", "overlayfs", "wire",
		"internal/calendar", "internal/canonjson", "internal/crashpoint", "internal/enter", "internal/flock", "internal/mount", "internal/suggest", "internal/unixsocket", "internal/userns",
	},
	{"builder/sandbox", "image/erofs", "filetransfer", "nar", "nar/refscan", "objstore/s3", "storepath"},
	{"derivation", "objstore/http"},
	{"store"},
	{"export", "gc", "lease", "narinfo", "nixdb", "optimise", "profile", "registration", "trust"},
	{"builder/buildlog", "builder/builtin", "builder/environment", "builder/output", "fileindex", "narinfo/diskcache", "substitute"},
	{"builder/execute", "builder/sandbox/stage"},
	{"builder/remote"},
	{"builder", "check", "merge", "pivot", "store/binarycache", "store/lazy", "worker"},
	{"cacheserver", "daemon", "store/local"},
	{"store/overlay"},
	{"stack"},
	{"cmd/strata"},
}

// sideways are the edges within a tier, each with its reason.
var sideways = map[edge]string{
	{"image", "internal/mount"}:          "the kernel's mount interface, wrapped once for both kinds of mount",
	{"overlayfs", "internal/mount"}:      "the same",
	{"overlayfs", "internal/crashpoint"}: "moments at which a test kills it",
	{"fusefs", "internal/mount"}:         "the same",
	{"nixconf", "internal/suggest"}:      "names of settings are guessed like all others",
}

// support is for tests and tools only, and may import anything that is not a
// command. No package of the tiers imports it outside of tests.
var support = []string{
	"internal/corpus", "internal/debian", "internal/fault", "internal/memstore", "internal/testenv", "objstore/objstoretest", "store/storetest",
}

type edge struct{ from, to string }

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath, Dir, Name, Doc string
	Imports                    []string
	GoFiles                    []string
}

// rel is the import path within the module, "" for its root.
func (p *pkg) rel() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

func listPackages(t *testing.T) []*pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Name,Doc,Imports,GoFiles", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var pkgs []*pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := new(pkg)
		err := dec.Decode(p)
		if errors.Is(err, io.EOF) {
			return pkgs
		}
		if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func tierOf(rel string) int {
	return slices.IndexFunc(tiers, func(tier []string) bool { return slices.Contains(tier, rel) })
}

func isTool(rel string) bool { return strings.HasPrefix(rel, "tools/") }

// forbids says why a package must not import another, "" if it may.
func forbids(from, to string) string {
	switch {
	case isTool(to) || strings.HasPrefix(to, "cmd/"):
		return "nothing imports a command"
	case isTool(from):
		return ""
	case slices.Contains(support, from):
		return ""
	case slices.Contains(support, to):
		return to + " is for tests and tools"
	case tierOf(to) < tierOf(from) || sideways[edge{from, to}] != "":
		return ""
	}
	return "imports point from right to left: see tiers in layout_test.go"
}

func TestImportsPointOneWay(t *testing.T) {
	there := make(map[string]bool)
	for _, p := range listPackages(t) {
		from := p.rel()
		if from == "" {
			continue
		}
		there[from] = true
		if tierOf(from) < 0 && !slices.Contains(support, from) && !isTool(from) {
			t.Errorf("%s has no place in the table of layout_test.go", from)
			continue
		}
		for _, imported := range p.Imports {
			to, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			if why := forbids(from, to); why != "" {
				t.Errorf("%s imports %s: %s", from, to, why)
			}
		}
	}
	for _, name := range append(slices.Concat(tiers...), support...) {
		if !there[name] {
			t.Errorf("%s is in the table of layout_test.go, and no package", name)
		}
	}
}

// TestImportTable checks the rule itself on edges whose answer is known.
func TestImportTable(t *testing.T) {
	for _, c := range []struct {
		from, to string
		allowed  bool
	}{
		{"store/local", "nixdb", true},
		{"store/overlay", "store/local", true},
		{"gc", "store", true},
		{"gc", "store/local", false},
		{"check", "store/lazy", false},
		{"store", "store/local", false},
		{"worker", "daemon", false},
		{"daemon", "store/local", false},
		{"wire", "nixhash", false},
		{"overlayfs", "internal/mount", true},
		{"store/local", "internal/testenv", false},
		{"store/storetest", "store", true},
		{"stack", "cmd/strata", false},
		{"tools/corpus", "internal/corpus", true},
	} {
		if why := forbids(c.from, c.to); (why == "") != c.allowed {
			t.Errorf("%s imports %s: %q", c.from, c.to, why)
		}
	}
	seen := make(map[string]bool)
	for _, name := range append(slices.Concat(tiers...), support...) {
		if seen[name] {
			t.Errorf("%s is in the table twice", name)
		}
		seen[name] = true
	}
}

// vague are names that say nothing about what is in a package.
var vague = []string{"base", "common", "core", "helper", "helpers", "lib", "misc", "pkg", "shared", "types", "util", "utils"}

func TestPackagesAreNamedAndDescribed(t *testing.T) {
	for _, p := range listPackages(t) {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
		for part := range strings.SplitSeq(p.rel(), "/") {
			if slices.Contains(vague, part) {
				t.Errorf("%s: %q says nothing about what is in there", p.ImportPath, part)
			}
		}
	}
}

// sourceFiles calls f for each file of the source tree, with its path from the root.
func sourceFiles(t *testing.T, f func(name string, content []byte)) {
	t.Helper()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name == ".git" || d.Name() == "bin"):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		f(name, content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// maxLines is where a file usually has two nouns in it.
const maxLines = 600

func TestGoFilesAreShort(t *testing.T) {
	sourceFiles(t, func(name string, content []byte) {
		if n := bytes.Count(content, []byte("\n")); path.Ext(name) == ".go" && n > maxLines {
			t.Errorf("%s has %d lines; is there more than one noun in it?", name, n)
		}
	})
}

// foreign are things that tie the tree to one machine or to one company's
// servers: somebody's work directory, and registries, which are the business
// of the tools' own configuration. They are put together here so that this
// file does not match itself.
var foreign = regexp.MustCompile(`(^|[^\w.-])/` + `(work/(main|shared|\.)|tmp/brief)` +
	`|\b(deb|security|ftp|archive|snapshot)\.` + `debian\.org|\b(proxy|sum)\.` + `golang\.org|registry\.` + `npmjs|pypi\.` + `org`)

func TestTreeStandsAlone(t *testing.T) {
	testenv.LongWithRace(t)
	sourceFiles(t, func(name string, content []byte) {
		if path.Base(name) == "go.sum" || bytes.IndexByte(content, 0) >= 0 {
			return
		}
		for i, line := range bytes.Split(content, []byte("\n")) {
			if m := foreign.Find(line); m != nil {
				t.Errorf("%s:%d: %q does not belong in the tree", name, i+1, m)
			}
		}
	})
}

// TestSkipsAreCounted keeps tests from skipping past testenv, which makes a
// skip a failure where nothing may be left out.
func TestSkipsAreCounted(t *testing.T) {
	sourceFiles(t, func(name string, content []byte) {
		if !strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "internal/testenv/") {
			return
		}
		files := token.NewFileSet()
		f, err := parser.ParseFile(files, name, content, parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && isSkip(call) {
				t.Errorf("%v: skip through testenv.Skip or testenv.Long, with the reason", files.Position(n.Pos()))
			}
			return true
		})
	})
}

func isSkip(call *ast.CallExpr) bool {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
		return false
	}
	recv, ok := sel.X.(*ast.Ident)
	return ok && slices.Contains([]string{"t", "b", "f", "tb"}, recv.Name)
}

// TestFuzzTargetsHaveSeeds wants committed inputs for each fuzz target.
func TestFuzzTargetsHaveSeeds(t *testing.T) {
	target := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)
	sourceFiles(t, func(name string, content []byte) {
		if !strings.HasSuffix(name, "_test.go") {
			return
		}
		for _, m := range target.FindAllSubmatch(content, -1) {
			seeds := filepath.Join(filepath.Dir(name), "testdata", "fuzz", string(m[1]))
			if entries, err := os.ReadDir(seeds); err != nil || len(entries) == 0 {
				t.Errorf("%s: %s has no seeds in %s", name, m[1], seeds)
			}
		}
	})
}

// maxKept is the size in bytes of the largest file that belongs in the tree.
const maxKept = 256 << 10

// What a command left lying about is not committed by accident: everything that
// is kept is small.
func TestFilesAreSmall(t *testing.T) {
	sourceFiles(t, func(name string, content []byte) {
		if len(content) > maxKept {
			t.Errorf("%s has %d bytes; does it belong here?", name, len(content))
		}
	})
}
