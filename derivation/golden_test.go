package derivation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

var ctx = context.Background()

// golden holds what `nix-instantiate testdata/make.nix` of Nix 2.34.8 made, with
// ca-derivations, dynamic-derivations and impure-derivations on.
func golden(t testing.TB) map[storepath.Path][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/drv/*.drv")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden derivations", err)
	}
	texts := map[storepath.Path][]byte{}
	for _, f := range files {
		p, err := storepath.ParseBase(filepath.Base(f))
		if err != nil {
			t.Fatal(err)
		}
		if texts[p], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	return texts
}

func parsed(t testing.TB) map[storepath.Path]*Derivation {
	t.Helper()
	drvs := map[storepath.Path]*Derivation{}
	for p, text := range golden(t) {
		name, err := NameFromPath(p)
		if err != nil {
			t.Fatal(err)
		}
		if drvs[p], err = Parse(storepath.DefaultDir, name, text); err != nil {
			t.Fatal(err)
		}
	}
	return drvs
}

// named finds a golden derivation by its name.
func named(t testing.TB, name string) (storepath.Path, *Derivation) {
	t.Helper()
	for p, d := range parsed(t) {
		if d.Name == name {
			return p, d
		}
	}
	t.Fatalf("no golden derivation %q", name)
	return storepath.Path{}, nil
}

func hasher(drvs map[storepath.Path]*Derivation) *Hasher {
	return NewHasher(storepath.DefaultDir, func(_ context.Context, p storepath.Path) (*Derivation, error) {
		if d, ok := drvs[p]; ok {
			return d, nil
		}
		return nil, os.ErrNotExist
	})
}

func TestGoldenRoundTrip(t *testing.T) {
	drvs := parsed(t)
	for p, text := range golden(t) {
		d := drvs[p]
		if back, err := d.ATerm(storepath.DefaultDir); err != nil || !bytes.Equal(back, text) {
			t.Errorf("%s: printed %v\n%s\nwant\n%s", p, err, back, text)
		}
		if got, err := d.StorePath(storepath.DefaultDir); err != nil || got != p {
			t.Errorf("%s: store path %s, %v", p, got, err)
		}
	}
}

func TestGoldenKinds(t *testing.T) {
	want := map[string]Kind{
		"fetched.tar": Fixed, "tree": Fixed, "lib-1.2": InputAddressed, "app": InputAddressed, "structured": InputAddressed,
		"floating": Floating, "made.drv": Floating, "deferred": Deferred, "dynamic": Deferred, "impure": Impure,
	}
	features := map[string][]string{
		"floating": {"ca-derivations"}, "impure": {"impure-derivations"},
		"made.drv": {"ca-derivations", "dynamic-derivations"}, "dynamic": {"dynamic-derivations"},
	}
	drvs := parsed(t)
	if len(drvs) != len(want) {
		t.Errorf("%d derivations, want %d", len(drvs), len(want))
	}
	for _, d := range drvs {
		if k, err := d.Kind(); err != nil || k != want[d.Name] {
			t.Errorf("%s: kind %d, %v; want %d", d.Name, k, err, want[d.Name])
		}
		if got := d.Features(); !slices.Equal(got, features[d.Name]) {
			t.Errorf("%s: features %q, want %q", d.Name, got, features[d.Name])
		}
	}
}

func TestGoldenCheck(t *testing.T) {
	drvs := parsed(t)
	h := hasher(drvs)
	for range 2 { // the second time from memory
		for p, d := range drvs {
			if warnings, err := h.Check(ctx, p, d); err != nil || len(warnings) > 0 {
				t.Errorf("%s: %v %q", p, err, warnings)
			}
		}
	}
}

// What the outputs' paths are must follow from the rest alone.
func TestFillIn(t *testing.T) {
	drvs := parsed(t)
	h := hasher(drvs)
	for p, text := range golden(t) {
		d := drvs[p]
		bare := *d
		bare.Outputs, bare.Env = maps.Clone(d.Outputs), maps.Clone(d.Env)
		for name, o := range bare.Outputs {
			if o.Kind.HasKnownPath() {
				delete(bare.Env, name)
			}
			if o.Kind == InputAddressed {
				bare.Outputs[name] = Output{Kind: Deferred}
			}
		}
		if err := h.FillIn(ctx, &bare); err != nil {
			t.Fatal(err)
		}
		if back, err := bare.ATerm(storepath.DefaultDir); err != nil || !bytes.Equal(back, text) {
			t.Errorf("%s: %v\n%s\nwant\n%s", p, err, back, text)
		}
	}
}

func TestGoldenJSON(t *testing.T) {
	want, err := os.ReadFile("testdata/show.json")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*Derivation{}
	for p, d := range parsed(t) {
		all[p.Base()] = d
	}
	var got bytes.Buffer
	enc := json.NewEncoder(&got)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(struct {
		Derivations map[string]*Derivation `json:"derivations"`
		Version     int                    `json:"version"`
	}{all, JSONVersion}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.TrimSpace(string(want)), strings.TrimSpace(got.String())); d != "" {
		t.Error("differs from `nix derivation show` (-want +got):\n", d)
	}
	var back struct{ Derivations map[string]*Derivation }
	if err := json.Unmarshal(want, &back); err != nil {
		t.Fatal(err)
	}
	for base, d := range back.Derivations {
		wantText, _ := all[base].ATerm(storepath.DefaultDir)
		if text, err := d.ATerm(storepath.DefaultDir); err != nil || !bytes.Equal(text, wantText) {
			t.Errorf("%s from JSON: %v\n%s\nwant\n%s", base, err, text, wantText)
		}
	}
}

func TestPlaceholders(t *testing.T) {
	_, dynamic := named(t, "dynamic")
	maker, _ := named(t, "made.drv")
	p, err := UnknownOutput(maker, "out")
	if err != nil {
		t.Fatal(err)
	}
	for variable, got := range map[string]string{
		"alsoMaker": p.String(), "made1": p.Output("out").String(), "made": p.Output("out").Output("dev").String(),
	} {
		if want := dynamic.Env[variable]; got != want {
			t.Errorf("%s: %s, want %s", variable, got, want)
		}
	}
	floating, fd := named(t, "floating")
	if got, want := OutputPlaceholder("dev"), fd.Env["dev"]; got != want {
		t.Errorf("own output: %s, want %s", got, want)
	}
	_, deferred := named(t, "deferred")
	if p, err := UnknownOutput(floating, "dev"); err != nil || p.String() != deferred.Env["dep"] {
		t.Errorf("output of another: %s, %v, want %s", p, err, deferred.Env["dep"])
	}
	if _, err := UnknownOutput(fd.mustPath(t, "not-a-derivation"), "out"); !errors.Is(err, ErrInvalid) {
		t.Errorf("placeholder of no derivation: %v", err)
	}
}

func (*Derivation) mustPath(t *testing.T, name string) storepath.Path {
	p, err := storepath.FromParts(make([]byte, 20), name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestModulo(t *testing.T) {
	drvs := parsed(t)
	h := hasher(drvs)
	deferred := map[string]bool{"floating": true, "made.drv": true, "deferred": true, "dynamic": true, "impure": true}
	for _, d := range drvs {
		m, err := h.Modulo(ctx, d)
		if err != nil {
			t.Fatal(err)
		}
		if m.Deferred != deferred[d.Name] {
			t.Errorf("%s: deferred %v", d.Name, m.Deferred)
		}
		if got, want := sortedKeys(m.Hashes), d.OutputNames(); !slices.Equal(got, want) {
			t.Errorf("%s: hashes of %q, want %q", d.Name, got, want)
		}
	}
	// How fixed contents are made does not matter, and its inputs are not looked at.
	_, fixed := named(t, "fetched.tar")
	before, _ := h.Modulo(ctx, fixed)
	other := *fixed
	other.Args = []string{"another way"}
	other.InputDrvs = map[storepath.Path]InputNode{fixed.mustPath(t, "gone.drv"): {Outputs: []string{"out"}}}
	after, err := h.Modulo(ctx, &other)
	if err != nil || before.Hashes["out"] != after.Hashes["out"] {
		t.Errorf("fixed output made another way: %v, %v, %v", before, after, err)
	}
	want := nixhash.Of(nixhash.SHA256, "fixed:out:sha256:"+fixed.Outputs["out"].CA.Hash.Digest(nixhash.Base16)+":"+fixed.Env["out"])
	if before.Hashes["out"] != want {
		t.Errorf("fixed output: %s, want %s", before.Hashes["out"], want)
	}
}

func TestWire(t *testing.T) {
	for p, d := range parsed(t) {
		sent := encodeBasic(t, &d.Basic)
		r := wire.NewReader(bytes.NewReader(sent))
		back, err := ReadBasic(r, storepath.DefaultDir, d.Name)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		if diff := cmp.Diff(&d.Basic, back, cmp.Comparer(func(a, b []string) bool { return slices.Equal(a, b) }),
			cmp.Comparer(func(a, b []storepath.Path) bool { return slices.Equal(a, b) }),
			cmp.Comparer(func(a, b Output) bool { return a == b })); diff != "" || r.Offset() != int64(len(sent)) {
			t.Errorf("%s comes back different (-want +got), %d bytes of %d:\n%s", p, r.Offset(), len(sent), diff)
		}
		for n := 0; n < len(sent); n += 8 {
			if _, err := ReadBasic(wire.NewReader(bytes.NewReader(sent[:n])), storepath.DefaultDir, d.Name); err == nil {
				t.Fatalf("%s: cut at %d of %d was taken", p, n, len(sent))
			}
		}
	}
}

// One derivation byte by byte, so that a mistake made both in reading and in
// writing shows.
func TestWireBytes(t *testing.T) {
	b := Basic{Name: "x", Outputs: map[string]Output{"out": {Kind: Deferred}}, Platform: "s", Builder: "/b",
		Args: []string{"a"}, Env: map[string]string{"k": "v"}}
	want := "\x01\x00\x00\x00\x00\x00\x00\x00" +
		"\x03\x00\x00\x00\x00\x00\x00\x00out\x00\x00\x00\x00\x00" + strings.Repeat("\x00", 3*8) +
		"\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00s\x00\x00\x00\x00\x00\x00\x00" +
		"\x02\x00\x00\x00\x00\x00\x00\x00/b\x00\x00\x00\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00a\x00\x00\x00\x00\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00k\x00\x00\x00\x00\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00v\x00\x00\x00\x00\x00\x00\x00"
	if got := string(encodeBasic(t, &b)); got != want {
		t.Errorf("%q\nwant\n%q", got, want)
	}
}
