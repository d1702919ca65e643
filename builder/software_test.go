package builder_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/builder"
	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/builder/sandbox"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/corpus"
	"github.com/strata-nix/strata/internal/debian"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/storepath"
)

// softwareLock pins the Debian packages that make the toolchain, and the sources.
//
//go:embed testdata/software.lock
var softwareLock []byte

// software is a store with a toolchain and sources of real programs. It lies in the
// cache of the tests and is only read.
type software struct {
	root      string
	toolchain *store.PathInfo
	sources   map[string]*store.PathInfo // by name of the Debian source package
}

func newSoftware(t *testing.T) *software {
	t.Helper()
	sum := sha256.Sum256(softwareLock)
	root, err := testenv.Cached(t.Context(), "software-"+hex.EncodeToString(sum[:8]), makeSoftware)
	if err != nil {
		testenv.Skipf(t, "needs a toolchain and sources of Debian: %v", err)
	}
	sw := &software{root: root, sources: map[string]*store.PathInfo{}}
	s := sw.open(t)
	defer func() { _ = s.Close() }()
	for info, err := range s.AllPathInfos(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if name, ok := strings.CutPrefix(info.Path.Name(), "source-"); ok {
			sw.sources[name] = info
		} else {
			sw.toolchain = info
		}
	}
	return sw
}

func (sw *software) open(t *testing.T) *local.Store {
	t.Helper()
	s, err := local.Open(t.Context(), local.Options{Root: sw.root, ReadOnly: true, URI: "local?root=" + sw.root})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// makeSoftware fills a store with what the lock pins: one object with the whole
// toolchain, and one for each source.
func makeSoftware(ctx context.Context, root string) error {
	mirror, err := debian.Mirror()
	if err != nil {
		return err
	}
	cache, err := testenv.CacheDir()
	if err != nil {
		return err
	}
	archive := &debian.Archive{URL: mirror, Cache: filepath.Join(cache, "debs")}
	pins, err := corpus.ReadLock(bytes.NewReader(softwareLock))
	if err != nil {
		return err
	}
	s, err := local.Open(ctx, local.Options{Root: root})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	var packages []corpus.Pin
	for _, pin := range pins {
		if pin.Suite != "trixie-source" {
			packages = append(packages, pin)
			continue
		}
		file, err := archive.File(ctx, pin.File, pin.SHA256)
		if err != nil {
			return err
		}
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		_, err = s.AddDump(ctx, store.Dump{Name: "source-" + pin.Name, Spec: storepath.Spec{Method: storepath.Flat, Algorithm: nixhash.SHA256}, Contents: f}, store.AddOptions{})
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	return makeToolchain(ctx, s, archive, packages)
}

// makeToolchain makes one object of all packages, to be seen as the file system of a
// Debian system.
func makeToolchain(ctx context.Context, s *local.Store, archive *debian.Archive, packages []corpus.Pin) error {
	tmp, remove, err := s.TempDir(ctx)
	if err != nil {
		return err
	}
	defer remove()
	tree := filepath.Join(tmp, "toolchain")
	if err := corpus.System(ctx, archive, packages, tree, neededToBuild); err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(nar.Dump(ctx, w, tree)) }()
	_, err = s.AddDump(ctx, store.Dump{
		Name: "toolchain", Spec: storepath.Spec{Method: storepath.Recursive, Algorithm: nixhash.SHA256}, NAR: true, Contents: r,
	}, store.AddOptions{})
	return errors.Join(err, r.Close())
}

// neededToBuild leaves out what is for people, and the tests of Go.
func neededToBuild(name string) bool {
	if strings.HasPrefix(name, "usr/share/") {
		return strings.HasPrefix(name, "usr/share/go-") && !strings.Contains(name, "/testdata/") && !strings.HasSuffix(name, "_test.go")
	}
	return !strings.HasPrefix(name, "etc") && !strings.HasPrefix(name, "var")
}

// prologue finds the tools by their ordinary names, and unpacks the source.
const prologue = `set -eu
export PATH=$PWD/tools:/usr/bin:/usr/lib/go-1.24/bin
mkdir tools work
ln -s /usr/bin/gcc-14 tools/gcc
ln -s /usr/bin/gawk tools/awk
if [ -n "${src:-}" ]; then tar xf "$src" -C work --strip-components=1; fi
cd work
`

// programs are built from source, each with its own kind of build system. The last one
// uses all others.
var programs = []struct{ name, source, script string }{
	{"hello", "hello", `./configure --prefix=$out --disable-dependency-tracking --disable-nls
make -j2
make check
make install`},
	{"bindata", "golang-bindata", `export GO111MODULE=off GOPATH=$PWD/../gopath GOCACHE=$PWD/../cache CGO_ENABLED=0
mkdir -p ../gopath/src/github.com/jteeuwen
cp -r . ../gopath/src/github.com/jteeuwen/go-bindata
cd ../gopath/src/github.com/jteeuwen/go-bindata
go build -trimpath -buildvcs=false -ldflags=-s -o $out/bin/go-bindata ./go-bindata`},
	{"ply", "ply", `sed -i s/self.assert_/self.assertTrue/ test/test*.py # which Python 3.12 removed
(cd test && PYTHONDONTWRITEBYTECODE=1 python3.13 testyacc.py)
mkdir -p $out/lib
cp -r ply $out/lib
python3.13 -m compileall -q --invalidation-mode unchecked-hash $out/lib`},
	{"greeting", "", `mkdir $out
$hello/bin/hello -g "built on layers" > $out/greeting
$bindata/bin/go-bindata -nometadata -nocompress -o $out/greeting.go $out/greeting
cat > words.py <<'END'
import ply.lex
tokens = ["WORD"]
t_WORD = r"[a-z]+"
t_ignore = " \n"
lexer = ply.lex.lex()
lexer.input(open("/dev/stdin").read())
print([t.value for t in lexer])
END
PYTHONPATH=$ply/lib python3.13 words.py < $out/greeting > $out/words`},
}

// addDerivations puts the derivations of all programs into a store, and gives the
// last one and the paths of all.
func (sw *software) addDerivations(t *testing.T, s interface {
	store.Store
	store.DumpAdder
	Derivation(context.Context, storepath.Path) (*derivation.Derivation, error)
}) (last storepath.Path, outputs map[string]storepath.Path) {
	t.Helper()
	outputs = map[string]storepath.Path{}
	drvs := map[string]storepath.Path{}
	hasher := derivation.NewHasher(s.Dir(), s.Derivation)
	for _, p := range programs {
		d := &derivation.Derivation{Basic: derivation.Basic{
			Name: p.name, Platform: "x86_64-linux", Builder: "/bin/bash", Args: []string{"-c", prologue + p.script},
			Outputs:   map[string]derivation.Output{"out": {Kind: derivation.Deferred}},
			InputSrcs: []storepath.Path{sw.toolchain.Path},
			Env:       map[string]string{"name": p.name, "out": "", "toolchain": s.Dir().Print(sw.toolchain.Path)},
		}, InputDrvs: map[storepath.Path]derivation.InputNode{}}
		if src := sw.sources[p.source]; src != nil {
			d.InputSrcs = storepath.SortUnique(append(d.InputSrcs, src.Path))
			d.Env["src"] = s.Dir().Print(src.Path)
		} else {
			for name, drv := range drvs {
				d.InputDrvs[drv] = derivation.InputNode{Outputs: []string{"out"}}
				d.Env[name] = s.Dir().Print(outputs[name])
			}
		}
		if err := hasher.FillIn(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		text, err := d.ATerm(s.Dir())
		if err != nil {
			t.Fatal(err)
		}
		info, err := s.AddDump(t.Context(), store.Dump{
			Name: p.name + ".drv", Spec: storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256},
			References: d.References(), Contents: bytes.NewReader(text),
		}, store.AddOptions{})
		if err != nil {
			t.Fatal(err)
		}
		last, drvs[p.name], outputs[p.name] = info.Path, info.Path, d.Outputs["out"].Path
	}
	return last, outputs
}

// filesystem shows the toolchain as the file system of the builders: where that is found,
// for where it is seen.
func (sw *software) filesystem(realDir string) map[string]string {
	at := filepath.Join(realDir, sw.toolchain.Path.Base())
	return map[string]string{"/usr": at + "/usr", "/bin": at + "/usr/bin", "/lib": at + "/usr/lib", "/lib64": at + "/usr/lib64"}
}

// said collects the log for when a build fails.
type said struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *said) add(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b.WriteString(text + "\n")
}
func (s *said) Log(_ activity.Level, text string) { s.add(text) }
func (s *said) Start(activity.Event)              {}
func (s *said) Stop(uint64)                       {}
func (s *said) Result(_ uint64, what activity.ResultType, fields []activity.Field) {
	if what == activity.BuildLogLine && len(fields) > 0 {
		s.add(fields[0].Text)
	}
}

// Real programs are built from source in a layered store, with a toolchain that only
// the lower has, and come out as on a plain store with stock Nix, bit for bit.
func TestSoftwareOnLayers(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.Overlay(t)
	nix := testenv.Nix(t, "2.34")
	if able := sandbox.Probe(t.Context()); able.Isolation != nil {
		testenv.Skipf(t, "needs a sandbox: %v", able.Isolation)
	}
	sw := newSoftware(t)

	dir := testenv.Scratch(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{at("upper"), at("work"), at("merged/nix/store")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m, err := overlayfs.Mount(t.Context(), overlayfs.Options{
		Lowers: []string{filepath.Join(sw.root, "nix/store")}, Upper: at("upper"), Work: at("work"), Target: at("merged/nix/store"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmount(context.WithoutCancel(t.Context()), overlayfs.UnmountOptions{}); err != nil {
			t.Errorf("something holds on to the merged directory: %v", err)
		}
	})
	s, err := overlay.Open(t.Context(), overlay.Options{
		Upper: local.Options{Root: at("merged"), State: at("state"), Log: at("log")}, UpperLayer: at("upper"),
	}, []store.Store{sw.open(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })

	last, outputs := sw.addDerivations(t, s)
	o := builder.Options{MaxJobs: 2, System: "x86_64-linux"}
	for target, source := range sw.filesystem(s.RealDir()) {
		o.Execute.SandboxPaths = append(o.Execute.SandboxPaths, execute.SandboxPath{Target: target, Source: source})
	}
	var log said
	results, err := builder.New(nil).BuildPaths(activity.With(t.Context(), &log), builder.View{Store: s, Options: o},
		[]derivation.DerivedPath{{Path: last, Outputs: []string{"out"}}}, store.BuildNormal)
	if err != nil || results[0].Status != store.Built {
		t.Fatalf("%+v, %v\n%s", results, err, log.b.String())
	}
	greeting, err := os.ReadFile(filepath.Join(s.RealDir(), outputs["greeting"].Base(), "greeting"))
	if err != nil || string(greeting) != "built on layers\n" {
		t.Errorf("%q, %v", greeting, err)
	}
	words, err := os.ReadFile(filepath.Join(s.RealDir(), outputs["greeting"].Base(), "words"))
	if err != nil || string(words) != "['built', 'on', 'layers']\n" {
		t.Errorf("%q, %v", words, err)
	}
	sw.compareWithStock(t, nix, s, outputs)
}

// compareWithStock builds the same with stock Nix.
func (sw *software) compareWithStock(t *testing.T, nix *testenv.NixEnv, ours *overlay.Store, outputs map[string]storepath.Path) {
	t.Helper()
	plain, err := local.Open(t.Context(), local.Options{Root: nix.Dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = plain.Close() }()
	given := []*store.PathInfo{sw.toolchain}
	for _, src := range sw.sources {
		given = append(given, src)
	}
	for _, info := range given {
		nix = nix.WithBind(filepath.Join(sw.root, "nix/store", info.Path.Base()), plain.Dir().Print(info.Path))
	}
	if err := plain.Register(t.Context(), given); err != nil {
		t.Fatal(err)
	}
	last, _ := sw.addDerivations(t, plain)
	paths := ""
	for target, source := range sw.filesystem(string(plain.Dir())) {
		paths += " " + target + "=" + source
	}
	nix.Configure(t, "sandbox = true", "sandbox-paths ="+paths, "max-jobs = 2")
	nix.Run(t, "nix-store", "--realise", plain.Dir().Print(last))
	for name, p := range outputs {
		a, err := store.PathInfoOf(t.Context(), ours, p)
		if err != nil {
			t.Fatal(err)
		}
		b, err := store.PathInfoOf(t.Context(), plain, p)
		if err != nil {
			t.Fatal(err)
		}
		a, b = a.Clone(), b.Clone()
		a.Registered, b.Registered = 0, 0
		if fmt.Sprintf("%+v", a) != fmt.Sprintf("%+v", b) {
			t.Errorf("%s is %+v, and with stock Nix %+v", name, a, b)
		}
	}
}
