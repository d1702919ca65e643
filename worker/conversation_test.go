package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

var update = flag.Bool("update", false, "write the golden files anew; review what changes")

// conversations have one entry for each operation (of the client, or raw for
// what it never asks for). Each is held in every version of the protocol; the
// golden file has what came out of it and all bytes in both directions.
var conversations = []struct {
	name string
	hold func(ctx context.Context, c *Client, w *world) (any, error)
}{
	{"Handshake", func(context.Context, *Client, *world) (any, error) { return nil, nil }},
	{"IsValidPath", func(ctx context.Context, c *Client, w *world) (any, error) {
		yes, err := c.ValidPaths(ctx, []storepath.Path{w.hello})
		if err != nil {
			return nil, err
		}
		no, err := c.ValidPaths(ctx, []storepath.Path{w.missing})
		return []any{yes, no}, err
	}},
	{"QueryValidPaths", func(ctx context.Context, c *Client, w *world) (any, error) {
		return c.ValidPaths(ctx, []storepath.Path{w.user, w.missing, w.hello})
	}},
	{"QueryValidPathsSubstitute", func(ctx context.Context, c *Client, w *world) (any, error) {
		var found []storepath.Path
		err := c.ask(ctx, opQueryValidPaths, func(e *encoder) {
			e.paths([]storepath.Path{w.missing, w.hello})
			if e.version >= v1+27 {
				e.Bool(true)
			}
		}, func(d *decoder) { found = d.paths() })
		return []any{found, w.built}, err
	}},
	{"QueryPathInfo", func(ctx context.Context, c *Client, w *world) (any, error) {
		return c.PathInfos(ctx, []storepath.Path{w.user, w.missing, w.out})
	}},
	{"QueryClosure", func(ctx context.Context, c *Client, w *world) (any, error) {
		infos, err := c.QueryClosure(ctx, []storepath.Path{w.user, w.out})
		if errors.Is(err, store.ErrUnsupported) {
			return nil, err
		}
		var missing *store.InvalidPathError
		if _, err := c.QueryClosure(ctx, []storepath.Path{w.hello, w.missing}); !errors.As(err, &missing) {
			return nil, err
		}
		return []any{infos, missing}, err
	}},
	{"QueryAllValidPaths", func(ctx context.Context, c *Client, _ *world) (any, error) {
		var all []storepath.Path
		for p, err := range c.AllPaths(ctx) {
			if err != nil {
				return nil, err
			}
			all = append(all, p)
		}
		return all, nil
	}},
	{"QueryPathFromHashPart", func(ctx context.Context, c *Client, w *world) (any, error) {
		yes, err := c.PathFromHashPart(ctx, w.hello.HashPart())
		if err != nil {
			return nil, err
		}
		no, err := c.PathFromHashPart(ctx, w.missing.HashPart())
		return []any{yes, no}, err
	}},
	{"NarFromPath", func(ctx context.Context, c *Client, w *world) (any, error) {
		var b strings.Builder
		err := c.NarFromPath(ctx, w.hello, &b)
		return b.Len(), err
	}},
	{"NarFromPathMissing", func(ctx context.Context, c *Client, w *world) (any, error) {
		return nil, c.NarFromPath(ctx, w.missing, io.Discard)
	}},
	{"QueryReferrers", func(ctx context.Context, c *Client, w *world) (any, error) {
		return c.Referrers(ctx, []storepath.Path{w.hello, w.user})
	}},
	{"QueryValidDerivers", func(ctx context.Context, c *Client, w *world) (any, error) {
		return c.ValidDerivers(ctx, w.out)
	}},
	{"QueryDeriver", func(ctx context.Context, c *Client, w *world) (p any, err error) {
		err = c.ask(ctx, opQueryDeriver, func(e *encoder) { e.path(w.hello) }, func(d *decoder) { p = d.optPath() })
		return p, err
	}},
	{"QueryDerivationOutputMap", func(ctx context.Context, c *Client, w *world) (any, error) {
		return c.DerivationOutputs(ctx, w.drv)
	}},
	{"QueryDerivationOutputs", func(ctx context.Context, c *Client, w *world) (p any, err error) {
		err = c.ask(ctx, opQueryDerivationOutputs, func(e *encoder) { e.path(w.drv) }, func(d *decoder) { p = d.paths() })
		return p, err
	}},
	{"QueryDerivationOutputNames", func(ctx context.Context, c *Client, w *world) (p any, err error) {
		err = c.ask(ctx, opQueryDerivationOutputNames, func(e *encoder) { e.path(w.drv) }, func(d *decoder) { p = d.Strings() })
		return p, err
	}},
	{"QueryRealisation", func(ctx context.Context, c *Client, w *world) (any, error) {
		return c.Realisations(ctx, []store.DrvOutput{w.id, {DrvHash: w.id.DrvHash, Output: "dev"}})
	}},
	{"RegisterDrvOutput", func(ctx context.Context, c *Client, w *world) (any, error) {
		id := store.DrvOutput{DrvHash: w.id.DrvHash, Output: "dev"}
		err := c.RegisterRealisations(ctx, []*store.Realisation{{ID: id, OutPath: w.hello}})
		if err != nil {
			return nil, err
		}
		return w.Realisations(ctx, []store.DrvOutput{id})
	}},
	{"AddToStoreText", func(ctx context.Context, c *Client, w *world) (any, error) {
		return c.AddDump(ctx, store.Dump{
			Name: "new-text", Spec: storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256},
			References: []storepath.Path{w.hello}, Contents: strings.NewReader("text"),
		}, store.AddOptions{})
	}},
	{"AddToStoreFlat", func(ctx context.Context, c *Client, _ *world) (any, error) {
		return c.AddDump(ctx, store.Dump{
			Name: "new-file", Spec: storepath.Spec{Method: storepath.Flat, Algorithm: nixhash.SHA1},
			Contents: strings.NewReader("file"),
		}, store.AddOptions{})
	}},
	{"AddToStoreNar-Recursive", func(ctx context.Context, c *Client, w *world) (any, error) {
		return c.AddDump(ctx, store.Dump{
			Name: "new-tree", Spec: storepath.Spec{Method: storepath.Recursive, Algorithm: nixhash.SHA256},
			NAR: true, Contents: strings.NewReader(w.nar(ctx, w.hello)),
		}, store.AddOptions{})
	}},
	{"AddTextToStore", func(ctx context.Context, c *Client, w *world) (p any, err error) {
		err = c.ask(ctx, opAddTextToStore, func(e *encoder) {
			e.Text("new-text")
			e.Text("text")
			e.paths([]storepath.Path{w.hello})
		}, func(d *decoder) { p = d.path() })
		return p, err
	}},
	{"AddToStoreNar", func(ctx context.Context, c *Client, w *world) (any, error) {
		info := w.foreign(ctx)
		err := c.Add(ctx, info, strings.NewReader(w.nar(ctx, w.hello)), store.AddOptions{NoCheckSigs: true})
		if err != nil {
			return nil, err
		}
		return w.PathInfos(ctx, []storepath.Path{info.Path})
	}},
	{"AddToStoreNarCorrupt", func(ctx context.Context, c *Client, w *world) (any, error) {
		info := w.foreign(ctx)
		return nil, c.Add(ctx, info, strings.NewReader(w.nar(ctx, w.user)), store.AddOptions{})
	}},
	{"AddMultipleToStore", func(ctx context.Context, c *Client, w *world) (any, error) {
		info := w.foreign(ctx)
		second := info.Clone()
		second.Path, _ = storepath.ParseBase("1ph5rcgd8d97qmahmilk1zg9hbh2zz8l-second")
		second.References = []storepath.Path{info.Path}
		nar := w.nar(ctx, w.hello)
		err := c.AddMultiple(ctx, &objects{[]*store.PathInfo{info, second}, []string{nar, nar}}, store.AddOptions{NoCheckSigs: true})
		if err != nil {
			return nil, err
		}
		return w.PathInfos(ctx, []storepath.Path{second.Path})
	}},
	{"AddSignatures", func(ctx context.Context, c *Client, w *world) (any, error) {
		if err := c.AddSignatures(ctx, w.hello, []store.Signature{"a:Yg==", "b:Yg=="}); err != nil {
			return nil, err
		}
		return w.PathInfos(ctx, []storepath.Path{w.hello})
	}},
	{"AddBuildLog", func(ctx context.Context, c *Client, w *world) (any, error) {
		if err := c.AddBuildLog(ctx, w.drv, strings.NewReader("log\n")); err != nil {
			return nil, err
		}
		r, err := w.BuildLog(ctx, w.drv)
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(r)
		return string(text), err
	}},
	{"AddTempRoot", func(ctx context.Context, c *Client, w *world) (any, error) {
		roots := c.NewTempRoots()
		defer roots.Close()
		if err := roots.Add(ctx, []storepath.Path{w.hello, w.missing}); err != nil {
			return nil, err
		}
		return w.TempRooted(), nil
	}},
	{"AddIndirectRoot", func(ctx context.Context, c *Client, _ *world) (any, error) {
		return nil, c.AddIndirectRoot(ctx, "/home/user/result")
	}},
	{"AddPermRoot", func(ctx context.Context, c *Client, w *world) (p any, err error) {
		err = c.ask(ctx, opAddPermRoot, func(e *encoder) {
			e.path(w.hello)
			e.Text("/nix/var/nix/gcroots/perm")
		}, func(d *decoder) { p = d.Text() })
		return p, err
	}},
	{"SyncWithGC", func(ctx context.Context, c *Client, _ *world) (any, error) {
		return nil, c.ask(ctx, opSyncWithGC, nil, acknowledged)
	}},
	{"FindRoots", func(ctx context.Context, c *Client, w *world) (any, error) {
		if _, err := w.AddPermRoot(ctx, w.hello, "/nix/var/nix/gcroots/perm"); err != nil {
			return nil, err
		}
		roots, err := c.FindRoots(ctx, true)
		return fmt.Sprint(roots), err
	}},
	{"CollectGarbage", func(ctx context.Context, c *Client, w *world) (any, error) {
		return c.CollectGarbage(ctx, store.GCOptions{Action: store.DeleteSpecific, Paths: []storepath.Path{w.user}, MaxFreed: store.NoLimit})
	}},
	{"CollectGarbageIgnoreLiveness", func(ctx context.Context, c *Client, _ *world) (any, error) {
		return c.CollectGarbage(ctx, store.GCOptions{Action: store.DeleteDead, IgnoreLiveness: true})
	}},
	{"OptimiseStore", func(ctx context.Context, c *Client, _ *world) (any, error) { return nil, c.Optimise(ctx) }},
	{"VerifyStore", func(ctx context.Context, c *Client, w *world) (any, error) {
		w.Damage(w.hello)
		return c.Verify(ctx, store.VerifyOptions{CheckContents: true})
	}},
	{"QueryMissing", func(ctx context.Context, c *Client, w *world) (any, error) {
		return c.QueryMissing(ctx, w.targets())
	}},
	{"EnsurePath", func(ctx context.Context, c *Client, w *world) (any, error) {
		return nil, errors.Join(c.EnsurePath(ctx, w.hello), c.EnsurePath(ctx, w.missing))
	}},
	{"BuildPaths", func(ctx context.Context, c *Client, w *world) (any, error) {
		err := c.ask(ctx, opBuildPaths, func(e *encoder) {
			e.derivedPaths(w.targets())
			e.Uint64(uint64(store.BuildRepair))
		}, acknowledged)
		return w.built, err
	}},
	{"BuildPathsWithResults", func(ctx context.Context, c *Client, w *world) (any, error) {
		return c.BuildPaths(ctx, w.targets(), store.BuildCheck)
	}},
	{"BuildDerivation", func(ctx context.Context, c *Client, w *world) (any, error) {
		return c.BuildDerivation(ctx, w.drv, w.basic, store.BuildNormal)
	}},
	{"QuerySubstitutablePaths", func(ctx context.Context, c *Client, w *world) (any, error) {
		return c.SubstitutablePaths(ctx, []storepath.Path{w.missing, w.hello})
	}},
	{"QuerySubstitutablePathInfo", func(ctx context.Context, c *Client, w *world) (size any, err error) {
		err = c.ask(ctx, opQuerySubstitutablePathInfo, func(e *encoder) { e.path(w.missing) }, func(d *decoder) {
			if d.Bool() {
				d.optPath()
				d.paths()
				size = []uint64{d.Uint64(), d.Uint64()}
			}
		})
		return size, err
	}},
	{"QuerySubstitutablePathInfos", func(ctx context.Context, c *Client, w *world) (any, error) {
		ca := storepath.ContentAddress{Method: storepath.Flat, Hash: w.id.DrvHash}
		return c.Substitutables(ctx, []storepath.Path{w.missing, w.hello}, []storepath.ContentAddress{{}, ca})
	}},
	{"SetOptions", func(ctx context.Context, c *Client, w *world) (any, error) {
		err := c.ask(ctx, opSetOptions, func(e *encoder) {
			e.options(&Options{KeepGoing: true, Verbosity: 5, MaxJobs: 8, MaxSilentTime: 60, VerboseBuild: true, Cores: 2, Substitute: true,
				Overrides: map[string]string{"timeout": "10", "system-features": "kvm"}})
		}, nil)
		return w.settings, err
	}},
	{"RemovedOperation", func(ctx context.Context, c *Client, w *world) (any, error) {
		return nil, c.ask(ctx, opQueryPathHash, func(e *encoder) { e.path(w.hello) }, nil)
	}},
}

func (w *world) targets() []derivation.DerivedPath {
	return []derivation.DerivedPath{{Path: w.drv, Outputs: []string{"out"}}, {Path: w.hello}, {Path: w.drv, Outputs: []string{derivation.AllOutputs}}}
}

func (w *world) nar(ctx context.Context, p storepath.Path) string {
	var b strings.Builder
	if err := w.NarFromPath(ctx, p, &b); err != nil {
		panic(err)
	}
	return b.String()
}

// foreign describes an object that is not there yet, with the contents of hello.
func (w *world) foreign(ctx context.Context) *store.PathInfo {
	info, err := store.PathInfoOf(ctx, w, w.hello)
	if err != nil {
		panic(err)
	}
	info = info.Clone()
	info.Path, _ = storepath.ParseBase("0c5b8vw40d1178xlpddw65q9gf1h2186-foreign")
	info.CA = storepath.ContentAddress{}
	info.Deriver = w.drv
	info.References = []storepath.Path{info.Path, w.user}
	storepath.SortUnique(info.References)
	info.Ultimate = true
	info.Signatures = []store.Signature{"key:c2ln"}
	return info
}

func TestConversations(t *testing.T) {
	if *update {
		writeSeeds(t)
	}
	for _, talk := range conversations {
		t.Run(talk.name, func(t *testing.T) {
			var golden strings.Builder
			last, first := "", Version(0)
			flush := func(end Version) {
				if last != "" {
					fmt.Fprintf(&golden, "=== protocol %s to %s\n%s\n", first, end, last)
				}
			}
			for v := MinimumUsed; v <= Latest; v++ {
				text := converse(t, v, talk.name == "Handshake", talk.hold)
				if text != last {
					flush(v - 1)
					last, first = text, v
				}
			}
			flush(Latest)
			compareGolden(t, filepath.Join("testdata", "conversations", talk.name+".txt"), golden.String())
		})
	}
}

// converse holds one conversation and writes down what was said.
func converse(t *testing.T, v Version, handshake bool, hold func(context.Context, *Client, *world) (any, error)) string {
	w := newWorld(t)
	var rec recorder
	c := client(t, rec.dial(server(t, Session{Store: w, Trusted: true})), ClientOptions{latest: v})
	if !handshake {
		rec.reset()
	}
	result, err := hold(t.Context(), c, w)
	var b strings.Builder
	if err != nil {
		fmt.Fprintf(&b, "error: %s\n", strings.ReplaceAll(err.Error(), "protocol "+v.String(), "protocol ..."))
	} else {
		text, jerr := json.Marshal(printable(w.Dir(), result))
		if jerr != nil {
			t.Fatal(jerr)
		}
		fmt.Fprintf(&b, "result: %s\n", text)
	}
	return b.String() + rec.String()
}

// printable makes paths readable in JSON.
func printable(dir storepath.Dir, v any) any {
	switch v := v.(type) {
	case storepath.Path:
		return v.Base()
	case []storepath.Path:
		return dir.PrintAll(v)
	case [][]storepath.Path:
		var out []any
		for _, p := range v {
			out = append(out, printable(dir, p))
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = printable(dir, v[i])
		}
		return out
	case []*store.Realisation, []string, []uint64, []map[string]string, string, int, bool, nil:
		return v
	case *store.GCResult:
		return v
	default:
		return fmt.Sprintf("%+v", deref(v))
	}
}

// deref makes %+v follow pointers one level down.
func deref(v any) any {
	switch v := v.(type) {
	case []*store.PathInfo:
		return derefAll(v)
	case []*store.BuildResult:
		var out []string
		for _, r := range v {
			var outputs []string
			for name, o := range r.Outputs {
				outputs = append(outputs, name+"="+o.OutPath.Base())
			}
			c := *r
			c.Outputs = nil
			out = append(out, fmt.Sprintf("%+v %v", c, outputs))
		}
		return out
	case []*store.Substitutable:
		return derefAll(v)
	case *store.PathInfo:
		return *v
	case *store.Missing:
		return *v
	case *store.BuildResult:
		return *v
	}
	return v
}

func derefAll[T any](list []*T) []any {
	out := make([]any, len(list))
	for i, p := range list {
		if p != nil {
			out[i] = *p
		}
	}
	return out
}

// recorder remembers the bytes of all connections, each direction for itself.
type recorder struct {
	mu             sync.Mutex
	sent, received []byte
}

func (r *recorder) dial(dial Dialer) Dialer {
	return func(ctx context.Context) (net.Conn, error) {
		nc, err := dial(ctx)
		return &recorded{nc, r}, err
	}
}

func (r *recorder) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent, r.received = nil, nil
}

type recorded struct {
	net.Conn
	r *recorder
}

func (c *recorded) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.received = append(c.r.received, p[:n]...)
	return n, err
}

func (c *recorded) Write(p []byte) (int, error) {
	c.r.mu.Lock()
	c.r.sent = append(c.r.sent, p...)
	c.r.mu.Unlock()
	return c.Conn.Write(p)
}

// String shows one word of the protocol in a line.
func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return "client:\n" + dump(r.sent) + "server:\n" + dump(r.received)
}

// magic begins what a client sends on a connection; then comes the version that
// it offers, which would make each version's golden different.
var magic = []byte("cxin\x00\x00\x00\x00")

func dump(data []byte) string {
	var b strings.Builder
	offer := false
	for len(data) > 0 {
		n := min(8, len(data))
		if offer {
			fmt.Fprintf(&b, "  (the version)\n")
			data, offer = data[n:], false
			continue
		}
		offer = bytes.Equal(data[:n], magic)
		text := []byte(string(data[:n]))
		for i, c := range text {
			if c < ' ' || c > '~' {
				text[i] = '.'
			}
		}
		fmt.Fprintf(&b, "  %-23s  %s\n", fmt.Sprintf("% x", data[:n]), text)
		data = data[n:]
	}
	return b.String()
}

func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) == got {
		return
	}
	w, g := strings.Split(string(want), "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		if i >= len(w) || i >= len(g) || w[i] != g[i] {
			t.Fatalf("differs from %s in line %d:\n%s", path, i+1, strings.Join(g[max(0, i-3):min(len(g), i+4)], "\n"))
		}
	}
}
