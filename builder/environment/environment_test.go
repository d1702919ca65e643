package environment_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/strata-nix/strata/builder/environment"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// graph is a store of infos and derivations.
type graph struct {
	infos map[storepath.Path]*store.PathInfo
	drvs  map[storepath.Path]*derivation.Derivation
}

func (*graph) Dir() storepath.Dir { return storepath.DefaultDir }
func (*graph) URI() string        { return "test" }
func (*graph) Close() error       { return nil }
func (*graph) ValidPaths(context.Context, []storepath.Path) ([]storepath.Path, error) {
	return nil, errors.New("nobody asks that")
}

func (g *graph) PathInfos(_ context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	infos := make([]*store.PathInfo, len(paths))
	for i, p := range paths {
		infos[i] = g.infos[p]
	}
	return infos, nil
}

func (g *graph) Derivation(_ context.Context, p storepath.Path) (*derivation.Derivation, error) {
	return g.drvs[p], nil
}

func path(name string) storepath.Path {
	p, err := storepath.FromParts(nixhash.Compress(nixhash.Of(nixhash.SHA256, name).Bytes(), 20), name)
	if err != nil {
		panic(err)
	}
	return p
}

// add makes a path whose NAR has so many bytes.
func (g *graph) add(name string, size uint64, refs ...string) *store.PathInfo {
	info := &store.PathInfo{Path: path(name), NarHash: nixhash.Of(nixhash.SHA256, name), NarSize: size}
	for _, r := range refs {
		info.References = append(info.References, path(r))
	}
	info.References = storepath.SortUnique(info.References)
	if g.infos == nil {
		g.infos = map[storepath.Path]*store.PathInfo{}
	}
	g.infos[info.Path] = info
	return info
}

func full(name string) string { return storepath.DefaultDir.Print(path(name)) }

func basic(env map[string]string) *derivation.Basic {
	return &derivation.Basic{
		Name: "x", Outputs: map[string]derivation.Output{"out": {Kind: derivation.InputAddressed, Path: path("x")}},
		Platform: "x86_64-linux", Builder: "/bin/sh", Env: env,
	}
}

func spec(t *testing.T, g *graph, drv *derivation.Basic, inputs ...*store.PathInfo) environment.Spec {
	t.Helper()
	o, err := drv.Options(storepath.DefaultDir)
	if err != nil {
		t.Fatal(err)
	}
	return environment.Spec{Store: g, Drv: drv, Options: o, Inputs: inputs, BuildDir: "/build", Cores: 3}
}

func made(t *testing.T, s environment.Spec) *environment.Environment {
	t.Helper()
	e, err := environment.Make(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func check(t *testing.T, e *environment.Environment, vars string, files map[string]string) {
	t.Helper()
	if got := strings.Join(e.List(), "\n"); got != strings.TrimSpace(vars) {
		t.Errorf("variables:\n%s\nwant:\n%s", got, vars)
	}
	if len(e.Files) != len(files) {
		t.Errorf("files: %q", e.Files)
	}
	for name, want := range files {
		if got := e.Files[name]; got != want {
			t.Errorf("file %s:\n%s\nwant:\n%s", name, got, want)
		}
	}
}

func TestPlainVariables(t *testing.T) {
	e := made(t, spec(t, &graph{}, basic(map[string]string{
		"HOME": "/home", "TMPDIR": "/tmp", "out": full("x"), "buildCommand": "long", "passAsFile": "buildCommand none",
	})))
	check(t, e, `
HOME=/home
NIX_BUILD_CORES=3
NIX_BUILD_TOP=/build
NIX_LOG_FD=2
NIX_STORE=/nix/store
PATH=/path-not-set
PWD=/build
TEMP=/build
TEMPDIR=/build
TERM=xterm-256color
TMP=/build
TMPDIR=/build
buildCommandPath=/build/.attr-0l2nkwhif96f51f4amnlf414lhl4rv9vh8iffyp431v6s28gsr90
out=`+full("x")+`
passAsFile=buildCommand none`, map[string]string{".attr-0l2nkwhif96f51f4amnlf414lhl4rv9vh8iffyp431v6s28gsr90": "long"})
}

func TestStructuredAttributesAreFilesOnly(t *testing.T) {
	e := made(t, spec(t, &graph{}, basic(map[string]string{
		"out": full("x"), "PATH": "/bin",
		"__json": `{"b":true,"f":false,"n":null,"i":-7,"s":"it's","l":["a",1],"deep":[["x"]],"o":{"k v":"w"},"half":1.5,"not-a-name":1,"passAsFile":["s"]}`,
	})))
	ph := derivation.OutputPlaceholder("out")
	check(t, e, `
HOME=/homeless-shelter
NIX_ATTRS_JSON_FILE=/build/.attrs.json
NIX_ATTRS_SH_FILE=/build/.attrs.sh
NIX_BUILD_CORES=3
NIX_BUILD_TOP=/build
NIX_LOG_FD=2
NIX_STORE=/nix/store
PATH=/path-not-set
PWD=/build
TEMP=/build
TEMPDIR=/build
TERM=xterm-256color
TMP=/build
TMPDIR=/build`, map[string]string{
		".attrs.json": `{"b":true,"deep":[["x"]],"f":false,"half":1.5,"i":-7,"l":["a",1],"n":null,"not-a-name":1,"o":{"k v":"w"},` +
			`"outputs":{"out":"` + ph + `"},"passAsFile":["s"],"s":"it's"}`,
		".attrs.sh": "declare b=1\ndeclare f=\ndeclare i=-7\ndeclare -a l=('a' 1 )\ndeclare n=''\ndeclare -A o=(['k v']='w' )\n" +
			"declare -A outputs=(['out']='" + ph + "' )\ndeclare -a passAsFile=('s' )\ndeclare s='it'\\''s'\n",
	})
	e.Rewrite(map[string]string{ph: "/nix/store/scratch"})
	if text := e.Files[".attrs.sh"]; !strings.Contains(text, "['out']='/nix/store/scratch'") {
		t.Errorf("the placeholder is still there:\n%s", text)
	}
}

func TestRewriteReachesVariables(t *testing.T) {
	ph := derivation.OutputPlaceholder("out")
	e := made(t, spec(t, &graph{}, basic(map[string]string{"out": ph, "flags": "-L" + ph + "/lib"})))
	e.Rewrite(map[string]string{ph: "/p"})
	if e.Vars["out"] != "/p" || e.Vars["flags"] != "-L/p/lib" {
		t.Errorf("%q", e.Vars)
	}
}

func TestFixedOutputsSeeImpureVariables(t *testing.T) {
	t.Setenv("http_proxy", "ours")
	t.Setenv("secret", "never")
	drv := basic(map[string]string{"impureEnvVars": "http_proxy token gone"})
	s := spec(t, &graph{}, drv)
	s.ImpureEnv = map[string]string{"token": "set", "other": "x"}
	if e := made(t, s); e.Vars["http_proxy"] != "" || e.Vars["NIX_OUTPUT_CHECKED"] != "" {
		t.Errorf("an ordinary build sees %q", e.Vars)
	}
	drv.Outputs["out"] = derivation.Output{Kind: derivation.Fixed, CA: storepath.ContentAddress{Method: storepath.Flat, Hash: nixhash.Of(nixhash.SHA256, "")}}
	e := made(t, s)
	gone, there := e.Vars["gone"]
	if e.Vars["http_proxy"] != "ours" || e.Vars["token"] != "set" || gone != "" || !there || e.Vars["NIX_OUTPUT_CHECKED"] != "1" {
		t.Errorf("a fixed-output build sees %q", e.Vars)
	}
	if _, ok := e.Vars["secret"]; ok {
		t.Error("what was not asked for was given")
	}
	drv.Outputs["out"] = derivation.Output{Kind: derivation.Impure, Spec: storepath.Spec{Method: storepath.Recursive, Algorithm: nixhash.SHA256}}
	if e := made(t, s); e.Vars["http_proxy"] != "ours" || e.Vars["NIX_OUTPUT_CHECKED"] != "" {
		t.Errorf("an impure build sees %q", e.Vars)
	}
}

func TestExportReferencesGraph(t *testing.T) {
	g := &graph{}
	inputs := []*store.PathInfo{g.add("c", 5, "c"), g.add("b", 20, "c"), g.add("a", 100, "b", "c"), g.add("z", 1)}
	e := made(t, spec(t, g, basic(map[string]string{"exportReferencesGraph": "graph " + full("a") + "/bin/x"}), inputs...))
	var want strings.Builder
	for _, p := range storepath.SortUnique([]storepath.Path{path("a"), path("b"), path("c")}) {
		info := g.infos[p]
		fmt.Fprintf(&want, "%s\n\n%d\n", storepath.DefaultDir.Print(p), len(info.References))
		for _, r := range info.References {
			fmt.Fprintln(&want, storepath.DefaultDir.Print(r))
		}
	}
	if got := e.Files["graph"]; got != want.String() {
		t.Errorf("got\n%s\nwant\n%s", got, want.String())
	}

	e = made(t, spec(t, g, basic(map[string]string{"__json": `{"exportReferencesGraph":{"graph":["` + full("a") + `"]}}`}), inputs...))
	for name, size := range map[string]int{"a": 125, "b": 25, "c": 5} {
		if want := fmt.Sprintf(`{"closureSize":%d,"narHash":"%s"`, size, g.infos[path(name)].NarHash.Text(nixhash.Nix32)); !strings.Contains(e.Files[".attrs.json"], want) {
			t.Errorf("no %s in\n%s", want, e.Files[".attrs.json"])
		}
	}
}

func TestGraphsStayWithinTheInputs(t *testing.T) {
	g := &graph{}
	g.add("a", 1)
	s := spec(t, g, basic(map[string]string{"exportReferencesGraph": "graph " + full("a")}), g.add("b", 1))
	_, err := environment.Make(t.Context(), s)
	want := "cannot export references of path '" + full("a") + "' because it is not in the input closure of the derivation"
	var rejected *environment.RejectedError
	if !errors.As(err, &rejected) || rejected.Why != want {
		t.Errorf("%v", err)
	}
}

// A derivation in a graph brings what it produces, and that brings its closure.
func TestGraphsOfDerivationsHaveTheirOutputs(t *testing.T) {
	g := &graph{drvs: map[storepath.Path]*derivation.Derivation{path("d.drv"): {Basic: derivation.Basic{
		Name: "d", Outputs: map[string]derivation.Output{"out": {Kind: derivation.InputAddressed, Path: path("d")}},
	}}}}
	g.add("lib", 1)
	g.add("d", 1, "lib")
	s := spec(t, g, basic(map[string]string{"exportReferencesGraph": "graph " + full("d.drv")}), g.add("d.drv", 1))
	text := made(t, s).Files["graph"]
	for _, name := range []string{"d.drv", "d", "lib"} {
		if !strings.Contains(text, full(name)+"\n\n") {
			t.Errorf("no %s in\n%s", name, text)
		}
	}
	g.drvs[path("d.drv")].Outputs["out"] = derivation.Output{Kind: derivation.Floating, Spec: storepath.Spec{Method: storepath.Recursive, Algorithm: nixhash.SHA256}}
	if _, err := environment.Make(t.Context(), s); err == nil {
		t.Error("the output of a content-addressed derivation was found")
	}
}

// The sizes of closures are those that one gets by walking, also where they take
// several rounds.
func TestClosureSizesOfManyPaths(t *testing.T) {
	const n = 2500
	g := &graph{}
	var inputs []*store.PathInfo
	for i := range n {
		var refs []string
		for _, back := range []int{1, 7, 1030} {
			if i >= back && i%3 != 0 {
				refs = append(refs, fmt.Sprint(i-back))
			}
		}
		inputs = append(inputs, g.add(fmt.Sprint(i), uint64(i+1), refs...))
	}
	last := fmt.Sprint(n - 1)
	e := made(t, spec(t, g, basic(map[string]string{"__json": `{"exportReferencesGraph":{"graph":["` + full(last) + `"]}}`}), inputs...))
	seen := storepath.Set{}
	var walk func(storepath.Path) uint64
	walk = func(p storepath.Path) uint64 {
		if !seen.Add(p) {
			return 0
		}
		sum := g.infos[p].NarSize
		for _, r := range g.infos[p].References {
			sum += walk(r)
		}
		return sum
	}
	want := fmt.Sprintf(`{"closureSize":%d,"narHash":"%s"`, walk(path(last)), g.infos[path(last)].NarHash.Text(nixhash.Nix32))
	if !strings.Contains(e.Files[".attrs.json"], want) {
		t.Errorf("no %s", want)
	}
}

func TestNULIsRefused(t *testing.T) {
	var rejected *environment.RejectedError
	if _, err := environment.Make(t.Context(), spec(t, &graph{}, basic(map[string]string{"a": "b\x00c"}))); !errors.As(err, &rejected) {
		t.Errorf("%v", err)
	}
}
