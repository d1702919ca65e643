package derivation

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// Stock Nix 2.34.8 built 7g9g…-high.drv, for which it made p0f5…-high.drv out of
// it once its input was built, and published the result under this id.
func TestModuloOfRealisation(t *testing.T) {
	const id = "sha256:c06a42a96b89bd7788474355f4e0b68db7fd8638ae87bf63aca36f29d8463127"
	files, err := filepath.Glob("testdata/realised/*.drv")
	if err != nil || len(files) != 3 {
		t.Fatal(files, err)
	}
	drvs := map[storepath.Path]*Derivation{}
	for _, f := range files {
		p, err := storepath.ParseBase(filepath.Base(f))
		if err != nil {
			t.Fatal(err)
		}
		name, err := NameFromPath(p)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if drvs[p], err = Parse(storepath.DefaultDir, name, text); err != nil {
			t.Fatal(err)
		}
	}
	h := hasher(drvs)
	published := 0
	for p, d := range drvs {
		m, err := h.Modulo(ctx, d)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Hashes["out"].Text(nixhash.Base16); (got == id) != (p.HashPart() == "7g9grazdc93jzra461n3jcdc7zgp8jbi") {
			t.Errorf("%s: %s", p, got)
		} else if got == id {
			published++
		}
	}
	if published != 1 {
		t.Errorf("%d derivations have the id", published)
	}
}
