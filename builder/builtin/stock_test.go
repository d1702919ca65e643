package builtin

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/storepath"
)

// The same derivations, built by stock Nix and here, give the same trees.
func TestAgainstStockNix(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	nix.Run(t, "nix-store", "--init")
	sources := filepath.Join(nix.Dir, "sources")
	makeTree(t, sources, map[string]string{
		"one/bin/y": "#!y", "one/share/man/1": "", "one/lib": "-> share/man", "one/.hidden": "", "one/share/info/dir": "",
		"two/bin/x": "#!x", "two/share/man/2": "", "two/lib/z": "", "two/gone": "-> nowhere", "two/log": "",
		"three/bin/x": "#!x", "three/bin/y": "", "three/bin/z": "-> x", "three/etc/a/b/c": "",
		"four/bin/x": "#!x", "four/bin/four": "", "four/nix-support/propagated-user-env-packages": "",
		"file": "contents",
	})
	makeTree(t, sources, map[string]string{
		"tree.nar":    archive(t, map[string]string{"bin/x": "#!x", "l": "-> bin"}),
		"chan.tar":    tarball(t, dir("d"), file("d/x"), program("d/bin/y"), link("d/l", "bin/y"), hard("d/h", "d/bin/y")),
		"chan.nested": tarball(t, dir("./d/"), file("./d/x"), file("/d/y"), file("d/x")),
	})
	expr := nix.WriteFile(t, "x.nix", `
		let
		  src = name: builtins.path { path = `+sources+` + "/${name}"; inherit name; };
		  propagating = derivation {
		    name = "propagating"; system = builtins.currentSystem; builder = "/bin/bash"; PATH = "/usr/bin:/bin";
		    args = [ "-c" "mkdir -p $out/nix-support $out/bin; echo ${src "three"} >$out/nix-support/propagated-user-env-packages; >$out/bin/p" ];
		  };
		  builtin = builder: attrs: derivation ({ name = "x"; system = "builtin"; builder = "builtin:${builder}"; } // attrs);
		  env = derivations: builtin "buildenv" { inherit derivations; manifest = src "file"; };
		  fetch = attrs: builtin "fetchurl" ({ outputHashMode = "flat"; outputHashAlgo = "sha256"; } // attrs);
		in {
		  one = env [ "true" 5 1 (src "one") ];
		  two = env [ "true" 5 1 (src "one") "true" 4 1 (src "two") ];
		  three = env [ "true" 7 2 (src "one") (src "four") "true" 8 1 (src "three") "false" 1 1 (src "two") ];
		  conflict = env [ "true" 7 2 (src "one") (src "three") ];
		  all = env [ "true" 5 1 (src "one") "true" 4 1 (src "two") "true" 3 1 propagating "true" 9 1 (src "file") "true" 2 1 (src "four") ];
		  file = fetch { url = "file://${src "file"}"; outputHash = builtins.hashFile "sha256" (`+sources+` + "/file"); };
		  chan = builtin "unpack-channel" { channelName = "nixpkgs"; src = src "chan.tar"; };
		  nested = builtin "unpack-channel" { channelName = "d"; src = src "chan.nested"; };
		}`)
	// run builds a derivation here.
	run := func(t *testing.T, drvPath string) (*world, error) {
		text, err := os.ReadFile(filepath.Join(nix.Store(), path.Base(drvPath)))
		if err != nil {
			t.Fatal(err)
		}
		drv, err := derivation.Parse(storepath.DefaultDir, "x", text)
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, "", nil)
		w.Drv, w.RealDir = &drv.Basic, nix.Store()
		return w, w.run()
	}
	for _, attr := range []string{"one", "two", "three", "all", "file", "chan", "nested"} {
		t.Run(attr, func(t *testing.T) {
			drvPath := strings.TrimSpace(nix.Run(t, "nix-instantiate", expr, "-A", attr))
			out := strings.TrimSpace(nix.Run(t, "nix-store", "--realise", drvPath))
			w, err := run(t, drvPath)
			if err != nil {
				t.Fatal(err)
			}
			var theirs, ours bytes.Buffer
			if err := nar.Dump(t.Context(), &theirs, filepath.Join(nix.Store(), path.Base(out))); err != nil {
				t.Fatal(err)
			}
			if err := nar.Dump(t.Context(), &ours, w.Outputs["out"]); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(theirs.Bytes(), ours.Bytes()) {
				t.Errorf("ours: %q\ntheirs: %q", ours.Bytes(), theirs.Bytes())
			}
		})
	}
	t.Run("conflict", func(t *testing.T) {
		drvPath := strings.TrimSpace(nix.Run(t, "nix-instantiate", expr, "-A", "conflict"))
		theirs := nix.RunFails(t, "nix-store", "--realise", drvPath)
		_, err := run(t, drvPath)
		if err == nil {
			t.Fatal("no error")
		}
		for line := range strings.Lines(strings.Split(err.Error(), "\n\nBoth")[0]) {
			if !strings.Contains(theirs, strings.TrimSpace(line)) {
				t.Errorf("%q is not in %q", line, theirs)
			}
		}
	})
}
