package derivation_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// The builder of a derivation with structured attributes gets the same files from
// stock Nix.
func TestStockNixGivesTheSameFiles(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	drvPath := nix.Run(t, "nix-instantiate", nix.WriteFile(t, "x.nix", `derivation {
		name = "x"; system = builtins.currentSystem; builder = "/bin/bash"; __structuredAttrs = true;
		args = [ "-c" ''
			. "$NIX_ATTRS_SH_FILE"
			/bin/mkdir "''${outputs[out]}"
			/bin/cp "$NIX_ATTRS_SH_FILE" "$NIX_ATTRS_JSON_FILE" "''${outputs[out]}"
		'' ];
		self = placeholder "out"; exportReferencesGraph.graph = [ (builtins.toFile "dep" "dep") ];
		text = "it's \"\\\n\t\r$x `+"`y`"+` é \u2028 <&>"; yes = true; no = false; nothing = null;
		whole = 2.0; half = 2.5; tiny = 1.0e-7; huge = 1.0e300; single = 16777217.5; near = 0.99999999999;
		big = 9223372036854775807; three = 3000000000; minus = -1; empty = ""; words = [ "a b" 1 null true false ]; none = [ ];
		nested = [ [ 1 ] ]; set = { a = 1; "b'c" = "d'e"; f = false; }; deep.er.est = 1; "not-a-name" = 1; _ok = 1;
	}`))
	name := strings.TrimSuffix(filepath.Base(drvPath), storepath.DerivationSuffix)[storepath.HashPartLen+1:]
	text, err := os.ReadFile(filepath.Join(nix.Store(), filepath.Base(drvPath)))
	if err != nil {
		t.Fatal(err)
	}
	drv, err := derivation.Parse(storepath.DefaultDir, name, text)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(nix.Store(), filepath.Base(nix.Run(t, "nix-store", "--realise", drvPath)))

	o, err := drv.Basic.Options(storepath.DefaultDir)
	if err != nil {
		t.Fatal(err)
	}
	dep := o.ExportReferencesGraph["graph"][0]
	hash, err := nixhash.Parse(nix.Run(t, "nix-store", "--query", "--hash", storepath.DefaultDir.Print(dep)))
	if err != nil {
		t.Fatal(err)
	}
	const size = 120 // of the NAR of three bytes
	attrs := o.Structured.Prepared(storepath.DefaultDir, map[string]string{"out": derivation.OutputPlaceholder("out")}, map[string][]derivation.GraphNode{
		"graph": {{Path: dep, NarHash: hash, NarSize: size, ClosureSize: size,
			CA: storepath.ContentAddress{Method: storepath.Text, Hash: nixhash.Of(nixhash.SHA256, "dep")}}},
	})
	json, err := attrs.JSON()
	if err != nil {
		t.Fatal(err)
	}
	for file, contents := range map[string]string{".attrs.json": string(json), ".attrs.sh": string(attrs.Shell())} {
		contents = derivation.Rewrite(contents, map[string]string{derivation.OutputPlaceholder("out"): storepath.DefaultDir.Print(drv.Outputs["out"].Path)})
		want, err := os.ReadFile(filepath.Join(out, file))
		if err != nil || contents != string(want) {
			t.Errorf("%s is\n%s\nstock Nix makes\n%s\n%v", file, contents, want, err)
		}
	}
}
