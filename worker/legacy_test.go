package worker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/export"
	"github.com/strata-nix/strata/internal/memstore"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

// legacyServer is server for the older protocol. failed gets how each connection
// ended.
func legacyServer(t testing.TB, o LegacySession, failed chan<- error) Dialer {
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	return func(context.Context) (net.Conn, error) {
		here, there := socketPair(t)
		running.Go(func() {
			err := ServeLegacy(context.Background(), there, o)
			_ = there.Close()
			if failed != nil {
				failed <- err
			}
		})
		return here, nil
	}
}

func legacyClient(t testing.TB, dial Dialer) *LegacyClient {
	t.Helper()
	c, err := NewLegacyClient(t.Context(), dial, LegacyClientOptions{URI: "ssh://test", Build: LegacyOptions{MaxSilentTime: 7, KeepFailed: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestLegacyReading(t *testing.T) {
	w := newWorld(t)
	c := legacyClient(t, legacyServer(t, LegacySession{Store: w}, nil))
	valid, err := c.ValidPaths(t.Context(), []storepath.Path{w.user, w.missing, w.hello})
	if err != nil || !slices.Equal(valid, []storepath.Path{w.user, w.hello}) {
		t.Errorf("valid are %v, %v", valid, err)
	}
	infos, err := c.PathInfos(t.Context(), []storepath.Path{w.missing, w.user})
	if err != nil || infos[0] != nil {
		t.Fatal(infos, err)
	}
	want, err := store.PathInfoOf(t.Context(), w, w.user)
	if err != nil {
		t.Fatal(err)
	}
	got := infos[1]
	if got.NarHash != want.NarHash || got.NarSize != want.NarSize || !slices.Equal(got.References, want.References) || got.CA != want.CA {
		t.Errorf("info is %+v, not %+v", got, want)
	}
	if a, b := narOf(t, c, w.user), narOf(t, w, w.user); a != b {
		t.Errorf("NAR is %q, not %q", a, b)
	}
}

func TestLegacyWriting(t *testing.T) {
	from, to := newWorld(t), memstore.New(storepath.DefaultDir)
	ended := make(chan error, 4)
	c := legacyClient(t, legacyServer(t, LegacySession{Store: to, Write: true}, ended))
	infos, err := store.Closure(t.Context(), from, []storepath.Path{from.user})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time all is there
		for _, info := range infos {
			if err := c.Add(t.Context(), info, strings.NewReader(narOf(t, from, info.Path)), store.AddOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if a, b := narOf(t, to, from.user), narOf(t, from, from.user); a != b {
		t.Errorf("NAR is %q, not %q", a, b)
	}

	// A server that only reads says so by hanging up.
	c = legacyClient(t, legacyServer(t, LegacySession{Store: memstore.New(storepath.DefaultDir)}, ended))
	if err := c.Add(t.Context(), infos[0], strings.NewReader(narOf(t, from, infos[0].Path)), store.AddOptions{}); !errors.Is(err, ErrDisconnected) {
		t.Errorf("wrote to what only reads: %v", err)
	}
	if err := <-ended; !errors.Is(err, store.ErrNotPrivileged) {
		t.Errorf("ended with %v", err)
	}
}

func TestLegacyBuilding(t *testing.T) {
	w := newWorld(t)
	c := legacyClient(t, legacyServer(t, LegacySession{Store: w, Write: true}, nil))
	made := derivation.DerivedPath{Path: w.drv, Outputs: []string{"out"}}
	results, err := c.BuildPaths(t.Context(), []derivation.DerivedPath{made, {Path: w.hello}}, store.BuildNormal)
	if err != nil || !results[0].Status.OK() || !results[1].Status.OK() {
		t.Errorf("results are %v, %v", results, err)
	}
	results, err = c.BuildPaths(t.Context(), []derivation.DerivedPath{{Path: w.missing}}, store.BuildNormal)
	if err != nil || results[0].ExitStatus != 100 || !strings.Contains(results[0].Message, "failed with exit code 1") {
		t.Errorf("failure is %+v, %v", results[0], err)
	}
	r, err := c.BuildDerivation(t.Context(), w.drv, w.basic, store.BuildNormal)
	if err != nil || r.Status != store.NotDeterministic || r.Message != "differs" || !r.NonDeterministic {
		t.Errorf("result is %+v, %v", r, err)
	}
	if s := w.settings[0]; s["max-silent-time"] != "7" || s["keep-failed"] != "true" || s["substitute"] != "false" {
		t.Errorf("settings are %v", s)
	}
	if _, err := c.BuildPaths(t.Context(), []derivation.DerivedPath{made}, store.BuildCheck); !errors.Is(err, store.ErrUnsupported) {
		t.Errorf("checked: %v", err)
	}
	want := []string{"build " + made.String() + " 0", "build " + w.hello.String() + " 0"}
	if !slices.Equal(w.built[:2], want) {
		t.Errorf("asked for %q, not %q", w.built[:2], want)
	}
}

// talk sends words of the protocol and gives what comes back.
func legacyTalk(t *testing.T, o LegacySession, say func(*encoder)) (*decoder, error) {
	t.Helper()
	var in, answer bytes.Buffer
	e := &encoder{Writer: wire.NewWriter(&in), dir: o.Store.Dir(), version: legacyForms}
	e.Uint64(legacyClientMagic)
	e.Uint64(uint64(LegacyLatest))
	say(e)
	if err := e.Flush(); err != nil {
		t.Fatal(err)
	}
	err := ServeLegacy(t.Context(), struct {
		io.Reader
		io.Writer
	}{&in, &answer}, o)
	d := &decoder{Reader: wire.NewReader(&answer), dir: o.Store.Dir(), version: legacyForms}
	if magic, version := d.Uint64(), d.Uint64(); magic != legacyServerMagic || version != uint64(LegacyLatest) {
		t.Errorf("greeted with %#x, %#x", magic, version)
	}
	return d, err
}

// What only Hydra asks for.
func TestLegacyClosuresAndImports(t *testing.T) {
	w := newWorld(t)
	d, err := legacyTalk(t, LegacySession{Store: w}, func(e *encoder) {
		for _, outputs := range []bool{false, true} {
			e.Uint64(legacyQueryClosure)
			e.Bool(outputs)
			e.paths([]storepath.Path{w.user, w.drv})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	plain, whole := d.paths(), d.paths()
	if want := storepath.SortUnique([]storepath.Path{w.user, w.hello, w.drv}); !slices.Equal(plain, want) {
		t.Errorf("closure is %v, not %v", plain, want)
	}
	if want := storepath.SortUnique([]storepath.Path{w.user, w.hello, w.drv, w.out}); !slices.Equal(whole, want) {
		t.Errorf("with outputs it is %v, not %v", whole, want)
	}

	var exported bytes.Buffer
	if err := export.Write(t.Context(), &exported, w, []storepath.Path{w.hello, w.user}); err != nil {
		t.Fatal(err)
	}
	to := memstore.New(storepath.DefaultDir)
	d, err = legacyTalk(t, LegacySession{Store: to, Write: true}, func(e *encoder) {
		e.Uint64(legacyImportPaths)
		_, _ = e.Write(exported.Bytes())
		e.Uint64(legacyQueryValidPaths)
		e.Bool(true)
		e.Bool(false)
		e.paths([]storepath.Path{w.hello, w.user})
	})
	if err != nil || d.Uint64() != 1 || len(d.paths()) != 2 {
		t.Errorf("import: %v", err)
	}
}

func TestLegacyBadInput(t *testing.T) {
	w := newWorld(t)
	for name, say := range map[string]func(*encoder){
		"unknown serve command 5": func(e *encoder) { e.Uint64(5) },
		"is not in the Nix store": func(e *encoder) { e.Uint64(legacyDumpStorePath); e.Text("/etc/passwd") },
		"unexpected EOF":          func(e *encoder) { e.Uint64(legacyQueryPathInfos); e.Uint64(3) },
		"repeating builds": func(e *encoder) {
			e.Uint64(legacyBuildPaths)
			e.derivedPaths(nil)
			for _, n := range []uint64{0, 0, 0, 3, 0, 0} {
				e.Uint64(n)
			}
		},
		"too many": func(e *encoder) { e.Uint64(legacyQueryPathInfos); e.Uint64(1 << 60) },
	} {
		if _, err := legacyTalk(t, LegacySession{Store: w, Write: true}, say); err == nil || !strings.Contains(err.Error(), name) && name != "too many" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Both sides of ssh with stock Nix on the other one.
func TestLegacyWithStockNix(t *testing.T) {
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		c := legacyClient(t, DialCommand(func() (*exec.Cmd, error) {
			return nix.Command(context.Background(), "nix-store", "--serve", "--write", "--option", "sandbox", "false"), nil
		}))
		w := newWorld(t)
		for _, p := range []storepath.Path{w.hello, w.user} {
			info, err := store.PathInfoOf(t.Context(), w, p)
			if err == nil {
				err = c.Add(t.Context(), info, strings.NewReader(narOf(t, w, p)), store.AddOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if valid, err := c.ValidPaths(t.Context(), []storepath.Path{w.hello, w.missing}); err != nil || !slices.Equal(valid, []storepath.Path{w.hello}) {
			t.Errorf("valid: %v, %v", valid, err)
		}
		infos, err := c.PathInfos(t.Context(), []storepath.Path{w.user, w.missing})
		if err != nil || infos[1] != nil || !slices.Equal(infos[0].References, []storepath.Path{w.hello}) {
			t.Errorf("infos: %v, %v", infos, err)
		}
		if got, want := narOf(t, c, w.user), narOf(t, w, w.user); got != want {
			t.Errorf("NAR is %q, not %q", got, want)
		}
		b := &derivation.Basic{
			Name: "made", Platform: "x86_64-linux", Builder: "/bin/sh", Args: []string{"-c", "printf made > $out"},
			Outputs: map[string]derivation.Output{"out": {Kind: derivation.Fixed, CA: storepath.ContentAddress{
				Method: storepath.Flat, Hash: nixhash.Of(nixhash.SHA256, "made")}}},
			Env: map[string]string{"out": c.Dir().Print(w.out)},
		}
		r, err := c.BuildDerivation(t.Context(), w.drv, b, store.BuildNormal)
		if err != nil || r.Status != store.Built {
			t.Errorf("result is %+v, %v", r, err)
		}
	})
}

// Whatever a client sends, there is an answer or an error.
func FuzzLegacy(f *testing.F) {
	f.Fuzz(func(t *testing.T, sent []byte, write bool) {
		_ = ServeLegacy(t.Context(), struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(sent), io.Discard}, LegacySession{Store: memstore.New(storepath.DefaultDir), Write: write})
	})
}
